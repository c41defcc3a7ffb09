// Arguments of a convolution, and the processing of its products.

#pragma once

#include "multiply.h"

enum Ending { kPlain, kGelu, kGlu, kAdd };

struct Convolution {  // pitches, offsets and widths in floats
  const float* x;
  int64_t bins, frames, channels, bin_pitch, frame_pitch;
  int64_t taps_b, stride_b, pad_b, taps_f, stride_f, pad_f, out_bins, out_frames;
  const void* weight;                  // packed: (taps over frames, taps over bins, channels) rows
  const float* bias;                   // per column of every panel
  int64_t parts, panels, ending, far;  // parts per number: 1, 2 or 3; …; `far`: larger than the caches
  float* out;
  int64_t out_bin_pitch, out_frame_pitch;
  const int64_t *offsets, *widths;  // per tile of the result: its offset and number of valid columns
  const float* scale;               // kAdd: per column of every panel
  const float* old;                 // kAdd: added to the result, with its layout
};

// Finish the products of a panel row by row: bias, ending, store.
template <int ending>
struct Rows {
  static const bool gated = ending == kGlu;
  static const int tiles = gated ? 1 : 2;
  const float* c = nullptr;
  int64_t left = 0, pitch = 0, width[2];
  Vector bias[2], scale[2];
  float* to[2];
  const float* old[2];
  bool far[2];

  Rows() = default;
  Rows(const Convolution& o, int64_t panel, const float* products, int64_t rows, float* out)
      : c(products), left(rows), pitch(o.out_frame_pitch) {
    for (int t = 0; t < 2; t++) {
      const int64_t column = kColumns * panel + 16 * t, tile = gated ? panel : 2 * panel + t;
      bias[t] = load(o.bias + column);
      if (t >= tiles) break;
      if (ending == kAdd) scale[t] = load(o.scale + column);
      width[t] = o.widths[tile];
      to[t] = out + o.offsets[tile];
      if (ending == kAdd) old[t] = o.old + (to[t] - o.out);
      far[t] = o.far && width[t] == 16 && (uintptr_t)to[t] % 64 == 0 && pitch % 16 == 0;
    }
  }

  void operator()(int64_t count) {
    for (; count && left; count--, left--, c += kColumns)
      for (int t = 0; t < tiles; t++) {
        if (!width[t]) continue;
        Vector v = load(c + 16 * t) + bias[t];
        if (ending == kGelu) v = gelu(v);
        if (gated) v = v * sigmoid(load(c + 16) + bias[1]);
        if (ending == kAdd) v = scale[t] * v;
        if (ending == kAdd) {
          v = v + load_some(old[t], width[t]);
          fetch(old[t] + kColumns);  // of the next panel
          old[t] += pitch;
        }
        if (far[t])
          store_far(to[t], v);
        else
          store_some(to[t], v, width[t]);
        to[t] += pitch;
      }
  }
};

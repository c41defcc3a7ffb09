// A convolution over (bins, frames, channels), channels side by side. A plain product of matrices has one tap.

#include "products.h"

enum Ending { kPlain, kGelu, kGlu, kAdd };

struct Convolution {  // pitches, offsets and widths in numbers
  const float* x;
  int64_t bins, frames, channels, bin_pitch, frame_pitch;
  int64_t taps_b, stride_b, pad_b, taps_f, stride_f, pad_f, out_bins, out_frames;
  const void* weight;                  // packed: (taps over frames, taps over bins, channels) rows
  const float* bias;                   // of every column of every panel
  int64_t parts, panels, ending, far;  // of a number: 1, 2 or 3; …; whether the result is larger than a cache
  float* out;
  int64_t out_bin_pitch, out_frame_pitch;
  const int64_t *offsets, *widths;  // of every tile of the result: where it begins, and how many columns count
  const float* scale;               // kAdd: of every column of every panel
  const float* old;                 // what is added to, laid out as the result
};

namespace {

// What becomes of a panel's products, row by row.
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

// The rows of `x` that a block of the result needs: of every frame the taps over bins, side by side.
template <int N>
void gather(const Convolution& o, int64_t bin, int64_t frame, int64_t count, const Numbers<N>& to) {
  const int64_t width = o.taps_b * o.channels;
  for (int64_t t = 0; t < o.taps_b; t++) {
    const int64_t b = bin * o.stride_b - o.pad_b + t;
    const bool is_there = b >= 0 && b < o.bins;
    for (int64_t r = 0; r < count; r++) {
      const int64_t f = frame + r;
      const Numbers<N> place = to.from(r, t * o.channels);
      if (is_there && f >= 0 && f < o.frames)
        split(o.x + b * o.bin_pitch + f * o.frame_pitch, o.channels, place);
      else
        place.clear(o.channels);
    }
  }
  if (to.pitch > width)
    for (int64_t r = 0; r < count; r++) to.from(r, width).clear(to.pitch - width);
  to.from(count, 0).clear(kStep<N>);
}

template <int ending, int N>
void convolve(const Convolution& o) {
  const int64_t width = o.taps_b * o.channels, steps = steps_of<N>(o.taps_f * width);
  const int64_t wide = o.taps_f == 1 ? pitch_of<N>(width) : width;  // taps over frames are rows that follow one another
  const int64_t fit = kHeld<N> / (N * sizeof(Part<N>) * wide * o.stride_f), most = least(fit, 256);
  const int64_t block = most < kRows<N> ? kRows<N> : most / kRows<N> * kRows<N>;
  const int64_t held = block * o.stride_f + o.taps_f + ceiling(kStep<N>, wide) + 1;
  const int64_t blocks = ceiling(o.out_frames, block);
  const Part<N>* weight = (const Part<N>*)o.weight;
#pragma omp parallel
  {
    Units<N> units;
    float* c = (float*)scratch.bytes(2 * block * kColumns * sizeof(float) + Numbers<N>::bytes(held, wide));
    const Numbers<N> gathered(c + 2 * block * kColumns, held, wide);
    Numbers<N> rows_of_taps = gathered;
    rows_of_taps.pitch = wide * o.stride_f;
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t b = 0; b < o.out_bins; b++)
      for (int64_t f = 0; f < blocks; f++) {
        const int64_t first = f * block, rows = least(o.out_frames - first, block);
        gather(o, b, first * o.stride_f - o.pad_f, (rows - 1) * o.stride_f + o.taps_f, gathered);
        float* out = o.out + b * o.out_bin_pitch + first * o.out_frame_pitch;
        const int64_t with_a_step = ceiling(kRows<N>, steps);
        Rows<ending> last;
        for (int64_t p = 0; p < o.panels; p++) {
          float* products = c + p % 2 * block * kColumns;
          multiply_rows(rows_of_taps, rows, weight + p * steps * N * kPlane<N>, steps, products,
                        [&] { last(with_a_step); });
          last(rows);
          last = Rows<ending>(o, p, products, rows, out);
        }
        last(rows);
      }
    arrive();
  }
}

template <int N>
void convolve(const Convolution& o) {
  switch (o.ending) {
    case kPlain:
      return convolve<kPlain, N>(o);
    case kGelu:
      return convolve<kGelu, N>(o);
    case kGlu:
      return convolve<kGlu, N>(o);
    case kAdd:
      return convolve<kAdd, N>(o);
  }
}

}  // namespace

extern "C" void stemify_convolve(const Convolution* o) {
  switch (o->parts) {
    case 1:
      return convolve<1>(*o);
    case 2:
      return convolve<2>(*o);
    case 3:
      return convolve<3>(*o);
  }
}

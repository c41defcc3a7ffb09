// Convolution over (bins, frames, channels). A plain matrix product has one tap.

#include "convolution.h"

namespace {

// Gather the rows of `x` for a block of the result: for every frame its taps over bins, adjacent.
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
Result convolve(const Convolution& o) {
  const int64_t width = o.taps_b * o.channels, steps = steps_of<N>(o.taps_f * width);
  const int64_t wide = o.taps_f == 1 ? pitch_of<N>(width) : width;  // taps over frames are consecutive rows
  const int64_t fit = kHeld<N> / (N * sizeof(Part<N>) * wide * o.stride_f), most = least(fit, 256);
  const int64_t block = most < kRows<N> ? kRows<N> : most / kRows<N> * kRows<N>;
  const int64_t held = block * o.stride_f + o.taps_f + ceiling(kStep<N>, wide) + 1;
  const int64_t blocks = ceiling(o.out_frames, block);
  const Part<N>* weight = (const Part<N>*)o.weight;
  const ThreadMemory memory(2 * block * kColumns * sizeof(float) + Numbers<N>::bytes(held, wide));
  if (memory.is_missing()) return kNoMemory;
#pragma omp parallel
  {
    Units<N> units;
    float* c = (float*)memory.own();
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
  return kDone;
}

template <int N>
Result convolve(const Convolution& o) {
  switch (o.ending) {
    case kPlain:
      return convolve<kPlain, N>(o);
    case kGelu:
      return convolve<kGelu, N>(o);
    case kGlu:
      return convolve<kGlu, N>(o);
    default:
      return convolve<kAdd, N>(o);
  }
}

}  // namespace

extern "C" int stemify_convolve(const Convolution* o) {
  switch (o->parts) {
    case 1:
      return convolve<1>(*o);
    case 2:
      return convolve<2>(*o);
    default:
      return convolve<3>(*o);
  }
}

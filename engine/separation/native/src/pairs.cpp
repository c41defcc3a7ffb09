// Convolution of floats with three taps over the frames (and any over the bins), with two matrix products per frame
// instead of three: two frames share four (Winograd, "Arithmetic complexity of computations", 1980; Lavin and Gray,
// "Fast Algorithms for Convolutional Neural Networks", 2016). The packed matrices follow one another: the first tap,
// half the sum of all taps, the same with the middle tap negated, and the last tap.

#include "convolution.h"

namespace {

const int64_t kProducts = 4;

// Gather the operands of each product for each pair of frames, with adjacent taps over bins; those of consecutive
// products are `block` rows apart.
void gather_pairs(const Convolution& o, int64_t bin, int64_t frame, int64_t pairs, const Numbers<1>& to, int64_t block,
                  const float* zeros) {
  const int64_t width = o.taps_b * o.channels, padding = to.pitch - width;
  for (int64_t t = 0; t < o.taps_b; t++) {
    const int64_t b = bin * o.stride_b - o.pad_b + t;
    for (int64_t p = 0; p < pairs; p++) {
      const float* taken[kProducts];
      for (int64_t i = 0; i < kProducts; i++) {
        const int64_t f = frame + 2 * p - 1 + i;
        const bool is_there = b >= 0 && b < o.bins && f >= 0 && f < o.frames;
        taken[i] = is_there ? o.x + b * o.bin_pitch + f * o.frame_pitch : zeros;
      }
      float* made[kProducts];
      for (int64_t i = 0; i < kProducts; i++) made[i] = to.from(i * block + p, t * o.channels).at;
      for (int64_t c = 0; c < o.channels; c += 16) {
        const int64_t some = o.channels - c;
        const Vector first = load_some(taken[0] + c, some), second = load_some(taken[1] + c, some),
                     third = load_some(taken[2] + c, some), fourth = load_some(taken[3] + c, some);
        store_some(made[0] + c, first - third, some);
        store_some(made[1] + c, second + third, some);
        store_some(made[2] + c, third - second, some);
        store_some(made[3] + c, second - fourth, some);
      }
    }
  }
  for (int64_t i = 0; i < kProducts; i++)
    for (int64_t p = 0; p < pairs; p++) to.from(i * block + p, width).clear(padding);
}

// Combine the products, which are `apart`, into the frames of `pairs`.
void add_up(const float* products, int64_t apart, int64_t pairs, float* frames) {
  for (int64_t p = 0; p < pairs; p++, products += kColumns, frames += 2 * kColumns)
    for (int64_t c = 0; c < kColumns; c += 16) {
      const Vector sum = load(products + apart + c), difference = load(products + 2 * apart + c);
      store(frames + c, load(products + c) + sum + difference);
      store(frames + kColumns + c, sum - difference - load(products + 3 * apart + c));
    }
}

template <int ending>
Result convolve(const Convolution& o) {
  const int64_t width = o.taps_b * o.channels, steps = steps_of<1>(width), wide = pitch_of<1>(width);
  const int64_t fit = kHeld<1> / (kProducts * sizeof(float) * wide), most = least(fit, 128);
  const int64_t block = most < kRows<1> ? kRows<1> : most / kRows<1> * kRows<1>;  // pairs
  const int64_t blocks = ceiling(o.out_frames, 2 * block);
  const float* weight = (const float*)o.weight;
  const int64_t apart = block * kColumns;  // of products
  const ThreadMemory memory((kProducts + 2) * apart * sizeof(float) + Numbers<1>::bytes(kProducts * block, wide) +
                            o.channels * sizeof(float));
  if (memory.is_missing()) return kNoMemory;
#pragma omp parallel
  {
    float* c = (float*)memory.own();
    float* frames = c + kProducts * apart;
    const Numbers<1> rows(frames + 2 * apart, kProducts * block, wide);
    float* zeros = (float*)rows.end();
    memset(zeros, 0, o.channels * sizeof(float));
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t b = 0; b < o.out_bins; b++)
      for (int64_t f = 0; f < blocks; f++) {
        const int64_t first = f * 2 * block, count = least(o.out_frames - first, 2 * block), pairs = ceiling(count, 2);
        gather_pairs(o, b, first, pairs, rows, block, zeros);
        for (int64_t p = 0; p < o.panels; p++) {
          for (int64_t i = 0; i < kProducts; i++)
            multiply_rows(rows.from(i * block, 0), pairs, weight + (p * kProducts + i) * steps * kPlane<1>, steps,
                          c + i * apart, [] {});
          add_up(c, apart, pairs, frames);
          Rows<ending>(o, p, frames, count, o.out + b * o.out_bin_pitch + first * o.out_frame_pitch)(count);
        }
      }
    arrive();
  }
  return kDone;
}

}  // namespace

extern "C" int stemify_convolve_pairs(const Convolution* o) {
  switch (o->ending) {
    case kPlain:
      return convolve<kPlain>(*o);
    case kGelu:
      return convolve<kGelu>(*o);
    default:
      return convolve<kGlu>(*o);
  }
}

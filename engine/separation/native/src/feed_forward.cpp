// old + scale * (gelu(x * first) * second); the hidden values stay in the cache.

#include "multiply.h"

struct FeedForward {
  const float* x;
  int64_t rows, channels, hidden;  // hidden: padded with zeros to whole panels
  int64_t parts;                   // of a number: 1 or 2
  const void* first;
  const float* first_bias;  // per column of every panel, as are second_bias and scale
  const void* second;
  const float* second_bias;
  float* out;
  const float *scale, *old;
};

namespace {

template <int N>
const int64_t kBlock = N == 1 ? 120 : 256;  // rows
template <int N>
const int64_t kSteps = kColumns / kStep<N>;  // of the second product per panel of the first

template <int N>
struct Hidden {  // turns the products of a panel into rows for the second product
  const float* c;
  int64_t left;
  Vector bias[2];
  Numbers<N> to;

  void operator()(int64_t count) {
    for (; count && left; count--, left--, c += kColumns, to.at += to.pitch)
      split(gelu(load(c) + bias[0]), gelu(load(c + 16) + bias[1]), to);
  }
};

template <int N>
Result feed_forward(const FeedForward& o) {
  const Part<N>*first_weight = (const Part<N>*)o.first, *second_weight = (const Part<N>*)o.second;
  const int64_t steps = steps_of<N>(o.channels), panels = ceiling(o.channels, kColumns);
  const int64_t inner_panels = o.hidden / kColumns, inner_steps = inner_panels * kSteps<N>;
  const int64_t at_once = kDeep<N> / kSteps<N>;  // panels of the first product
  const int64_t pitch = pitch_of<N>(o.channels), inner = pitch_of<N>(at_once * kColumns);
  if (o.rows == 0) return kDone;
  const int64_t block = ceiling(ceiling(o.rows, ceiling(o.rows, kBlock<N>)), kRows<N>) * kRows<N>;
  const ThreadMemory memory(block * (2 + panels) * kColumns * sizeof(float) + Numbers<N>::bytes(block, pitch + inner));
  if (memory.is_missing()) return kNoMemory;
#pragma omp parallel
  {
    Units<N> units;
    float* c = (float*)memory.own();
    float* sums = c + 2 * block * kColumns;
    const Numbers<N> x(sums + block * panels * kColumns, block, pitch), hidden(x.end(), block, inner);
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < o.rows; first += block) {
      const int64_t rows = least(o.rows - first, block);
      split_rows(o.x + first * o.channels, o.channels, rows, o.channels, x);
      for (int64_t deep = 0; deep < inner_panels; deep += at_once) {
        const int64_t some = least(inner_panels - deep, at_once), with_a_step = ceiling(kRows<N>, steps);
        Hidden<N> last{nullptr, 0, {}, hidden};
        for (int64_t p = 0; p < some; p++) {
          float* products = c + p % 2 * block * kColumns;
          const float* bias = o.first_bias + (deep + p) * kColumns;
          multiply_rows(x, rows, first_weight + (deep + p) * steps * N * kPlane<N>, steps, products,
                        [&] { last(with_a_step); });
          last(rows);
          last = Hidden<N>{products, rows, {load(bias), load(bias + 16)}, hidden.from(0, p * kColumns)};
        }
        last(rows);
        for (int64_t p = 0; p < panels; p++) {
          const Part<N>* panel = second_weight + (p * inner_steps + deep * kSteps<N>)*N * kPlane<N>;
          multiply_block(hidden, rows, panel, some * kSteps<N>, sums + p * block * kColumns, deep > 0,
                         panel + inner_steps * N * kPlane<N>, [] {});
        }
      }
      for (int64_t column = 0; column < o.channels; column += 16) {
        const float* c = sums + column / kColumns * block * kColumns + column % kColumns;
        const Vector bias = load(o.second_bias + column), scale = load(o.scale + column);
        for (int64_t r = 0; r < rows; r++) {
          const int64_t at = (first + r) * o.channels + column, width = o.channels - column;
          store_some(o.out + at, load_some(o.old + at, width) + scale * (load(c + r * kColumns) + bias), width);
        }
      }
    }
  }
  return kDone;
}

}  // namespace

extern "C" int stemify_feed_forward(const FeedForward* o) {
  return o->parts == 1 ? feed_forward<1>(*o) : feed_forward<2>(*o);
}

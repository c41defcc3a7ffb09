// old + scale * (gelu(x * first) * second): the hidden numbers never leave the cache.

#include "tiles.h"

struct FeedForward {
  const float* x;
  int64_t rows, channels, hidden;  // hidden: with the zeros up to a whole panel
  const Half* first;
  const float* first_bias;  // of every column of every panel, as the other two
  const Half* second;
  const float* second_bias;
  float* out;
  const float *scale, *old;
};

namespace {

const int64_t kBlock = 256;

struct Hidden {  // from the products of one panel to the halves of the next matrix
  const float* c;
  int64_t left;
  Vector bias[2];
  Halves<2> to;

  void operator()(int64_t count) {
    for (; count && left; count--, left--, c += kColumns, to.at += to.pitch)
      split(gelu(load(c) + bias[0]), gelu(load(c + 16) + bias[1]), to);
  }
};

}  // namespace

extern "C" void stemify_feed_forward(const FeedForward* given) {
  const FeedForward& o = *given;
  const int64_t steps = steps_of(o.channels), panels = steps, inner_steps = o.hidden / kStep;
  const int64_t pitch = pitch_of(o.channels), inner = pitch_of(kDeep * kStep);
  if (o.rows == 0) return;
  const int64_t block = ceiling(ceiling(o.rows, ceiling(o.rows, kBlock)), kRows) * kRows;
#pragma omp parallel
  {
    Tiles tiles;
    float* c =
        (float*)scratch.bytes(block * (2 + panels) * kColumns * sizeof(float) + Halves<2>::bytes(block, pitch + inner));
    float* sums = c + 2 * block * kColumns;
    const Halves<2> x(sums + block * panels * kColumns, block, pitch), hidden(x.at + 2 * x.apart, block, inner);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < o.rows; first += block) {
      const int64_t rows = least(o.rows - first, block);
      split_rows(o.x + first * o.channels, o.channels, rows, o.channels, x);
      for (int64_t deep = 0; deep < inner_steps; deep += kDeep) {
        const int64_t some = least(inner_steps - deep, kDeep), with_a_step = ceiling(kRows, steps);
        Hidden last{nullptr, 0, {}, hidden};
        for (int64_t p = 0; p < some; p++) {
          float* products = c + p % 2 * block * kColumns;
          const float* bias = o.first_bias + (deep + p) * kColumns;
          multiply_rows(x, rows, o.first + (deep + p) * steps * 2 * kPlane, steps, products,
                        [&] { last(with_a_step); });
          last(rows);
          last = Hidden{products, rows, {load(bias), load(bias + 16)}, hidden.from(0, p * kStep)};
        }
        last(rows);
        for (int64_t p = 0; p < panels; p++) {
          const Half* panel = o.second + (p * inner_steps + deep) * 2 * kPlane;
          multiply_block(hidden, rows, panel, some, sums + p * block * kColumns, deep > 0,
                         panel + inner_steps * 2 * kPlane, [] {});
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
}

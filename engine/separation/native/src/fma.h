// Multiply single-precision matrices with the fused multiply-add of vectors.
//
// A packed matrix consists of panels of 32 columns, row by row. A block of the result stays in registers during a panel
// ("Anatomy of High-Performance Matrix Multiplication", Goto and van de Geijn, 2008).

#pragma once

#include "numbers.h"

// `kHigh` rows of `kWide` lanes: the sums that fit the registers next to their operands.
static const int64_t kHigh = kLane == 16 ? 12 : 6, kWide = kLane == 4 ? 4 : 2;

// Memory to prefetch: `bytes` with every row of a panel.
struct Later {
  const char* at;
  int64_t bytes;
};

// Set `kHigh` rows of `width` lanes of c to rows of a * columns of b, or add to them.
template <int64_t width>
static __attribute__((noinline)) void multiply_lanes(const float* a, int64_t pitch, const float* b, int64_t depth,
                                                     float* c, bool more, Later later) {
  Lane sums[kHigh][width];
  for (int64_t r = 0; r < kHigh; r++)
    for (int64_t w = 0; w < width; w++) sums[r][w] = more ? load_lane(c + r * kColumns + w * kLane) : Lane{};
  const float* rows[kHigh / 3];  // every third: addressing modes cover one and two pitches
  for (int64_t i = 0; i < kHigh / 3; i++) rows[i] = a + 3 * i * pitch;
  for (int64_t k = 0; k < depth; k++, b += kColumns, later.at += later.bytes) {
    __builtin_prefetch(later.at, 0, 2);  // to the L2 cache: L1 is full
    Lane columns[width];
    for (int64_t w = 0; w < width; w++) columns[w] = load_lane(b + w * kLane);
    for (int64_t r = 0; r < kHigh; r++) {
      const float number = rows[r / 3][k + r % 3 * pitch];
      for (int64_t w = 0; w < width; w++) sums[r][w] += number * columns[w];
    }
  }
  for (int64_t r = 0; r < kHigh; r++)
    for (int64_t w = 0; w < width; w++) store_lane(c + r * kColumns + w * kLane, sums[r][w]);
}

// Multiply to `tiles` * 16 columns; rows of c are written up to a multiple of `kHigh`. As many bytes of `next` as of b
// are prefetched.
static inline void multiply_floats(const Numbers<1>& a, int64_t rows, const float* b, int64_t steps, float* c,
                                   bool more, int64_t tiles, const float* next) {
  const int64_t depth = steps * kStep<1>, wide = least(kWide * kLane, 16 * tiles);
  if (rows <= 0) return;
  const int64_t parts = ceiling(rows, kHigh) * (16 * tiles / wide);
  Later later{(const char*)next, ceiling(kColumns * sizeof(float), parts)};
  for (int64_t r = 0; r < rows; r += kHigh)
    for (int64_t t = 0; t < 16 * tiles; t += wide, later.at += depth * later.bytes) {
      const auto multiply = wide == kWide * kLane ? multiply_lanes<kWide> : multiply_lanes<(kWide + 1) / 2>;
      multiply(a.at + r * a.pitch, a.pitch, b + t, depth, c + r * kColumns + t, more, later);
    }
}

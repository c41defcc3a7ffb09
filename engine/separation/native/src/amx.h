// Multiply single-precision matrices on the AMX units of an x86 processor, which multiply bfloat16.
//
// A number is the sum of two bfloat16 and a product needs three multiplications (high * high, high * low, low * high),
// or the sum of three and a product needs six. The error is below 2^-16 or 2^-24 of a factor; the latter is single
// precision, as are the sums. Three multiplications take a fifth of AVX-512's time. Without AMX the same products are
// emulated one by one, for tests.
//
// A packed matrix consists of panels of 32 columns; a panel of steps of 32 rows; a step of one plane per part of the
// numbers; a plane of two tiles of 16 columns; a tile of 16 pairs of adjacent rows.

#pragma once

#include "numbers.h"

#if defined(__AMX_BF16__)
#include <immintrin.h>
#endif

static const int64_t kTile = 512;  // bfloat16 in a tile

struct Ahead {  // prefetched with every step
  const Half* at = nullptr;
  int64_t lines = 0;  // cache lines per step
};

// Set c (32 rows of 32) to rows * some steps of a panel, or add to it. `vector_work` is called after every step: the
// vector units are idle while the tiles multiply.
#if defined(__AMX_BF16__)
struct Tiles {  // tile configuration of a thread
  Tiles() {
    alignas(64) uint8_t shape[64] = {1};
    for (int tile = 0; tile < 8; tile++) {
      shape[16 + 2 * tile] = 64;
      shape[48 + tile] = 16;
    }
    asm volatile("ldtilecfg %0" ::"m"(shape));  // GCC's intrinsic declares a read of only eight bytes
  }
  ~Tiles() { _tile_release(); }
};

template <int N, class VectorWork>
static inline void multiply_tiles(const Numbers<N>& a, const Half* b, int64_t steps, float* c, bool more, Ahead ahead,
                                  VectorWork vector_work) {
  const int64_t row = a.pitch * sizeof(Half), line = kColumns * sizeof(float);
  const Half* rows = a.at;
  const auto load_rows = [&](int plane) {
    _tile_loadd(4, rows + plane * a.apart, row);
    _tile_loadd(5, rows + plane * a.apart + 16 * a.pitch, row);
  };
  const auto load_columns = [&](int plane) {
    _tile_loadd(6, b + plane * kPlane<N>, 64);
    _tile_loadd(7, b + plane * kPlane<N> + kTile, 64);
  };
  const auto add_products = [] {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  };
  asm volatile("" ::: "memory");  // GCC's tile loads do not declare that they read memory
  if (more) {
    _tile_loadd(0, c, line);
    _tile_loadd(1, c + 16, line);
    _tile_loadd(2, c + 16 * kColumns, line);
    _tile_loadd(3, c + 16 * kColumns + 16, line);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t s = 0; s < steps; s++, b += N * kPlane<N>, rows += kStep<N>) {
    for (int64_t i = 0; i < ahead.lines; i++)
      _mm_prefetch((const char*)(ahead.at + s * N * kPlane<N> + i * 32), _MM_HINT_T1);
    load_rows(0);
    if constexpr (N == 3) {
      load_columns(2);
      add_products();
    }
    load_columns(1);
    add_products();
    load_columns(0);
    add_products();
    load_rows(1);
    add_products();
    if constexpr (N == 3) {
      load_columns(1);
      add_products();
      load_rows(2);
      load_columns(0);
      add_products();
    }
    vector_work();
  }
  _tile_stored(0, c, line);
  _tile_stored(1, c + 16, line);
  _tile_stored(2, c + 16 * kColumns, line);
  _tile_stored(3, c + 16 * kColumns + 16, line);
}
#else
struct Tiles {
  Tiles() {}
};

template <int N, class VectorWork>
static inline void multiply_tiles(const Numbers<N>& a, const Half* b, int64_t steps, float* c, bool more, Ahead,
                                  VectorWork vector_work) {
  if (!more) memset(c, 0, kRows<N> * kColumns * sizeof(float));
  for (int64_t s = 0; s < steps; s++, b += N * kPlane<N>) {
    for (int64_t r = 0; r < kRows<N>; r++)
      for (int64_t k = 0; k < kStep<N>; k++)
        for (int64_t n = 0; n < kColumns; n++)
          for (int i = 0; i < N; i++)
            for (int j = 0; i + j < N; j++) {
              const Half left = a.at[i * a.apart + r * a.pitch + s * kStep<N> + k];
              const Half right = b[j * kPlane<N> + n / 16 * kTile + k / 2 * 32 + n % 16 * 2 + k % 2];
              c[r * kColumns + n] += widened(left) * widened(right);
            }
    vector_work();
  }
}
#endif

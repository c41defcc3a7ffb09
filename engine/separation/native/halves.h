// Numbers as the sum of some bfloat16, which keep 8 bits each: two of them are within 2^-17 of the number, three are
// the number.

#pragma once

#include "vectors.h"

typedef uint16_t Half;

static const int64_t kStep = 32;  // halves of a row that are multiplied at once

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t steps_of(int64_t depth) { return ceiling(depth, kStep); }

// Between two rows: an odd number of cache lines, so that the rows of a tile lie in different sets of a cache.
static inline int64_t pitch_of(int64_t depth) { return (steps_of(depth) | 1) * kStep; }

// Rows of numbers, each the sum of N: in as many planes, the largest first.
template <int N>
struct Halves {
  Half* at;
  int64_t pitch, apart;  // between rows, and between planes

  static size_t bytes(int64_t rows, int64_t pitch) { return N * rows * pitch * sizeof(Half); }

  Halves(void* memory, int64_t rows, int64_t row_pitch)
      : at((Half*)memory), pitch(row_pitch), apart(rows * row_pitch) {}

  Halves from(int64_t row, int64_t column) const {
    Halves part = *this;
    part.at += row * pitch + column;
    return part;
  }

  void clear(int64_t count) const {
    for (int n = 0; n < N; n++) memset(at + n * apart, 0, count * sizeof(Half));
  }
};

#if defined(__AVX512BF16__) && defined(__AVX512VL__) && defined(__AVX512BW__)
static inline Vector widened(__m256i halves) { return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16); }
#else
static inline float widened(Half half) {
  const uint32_t bits = (uint32_t)half << 16;
  float number;
  memcpy(&number, &bits, sizeof number);
  return number;
}

static inline Half nearest(float number) {
  uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  return (Half)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#endif

// 16 numbers.
template <int N>
static inline void split(Vector x, const Halves<N>& to) {
  for (int n = 0; n < N; n++) {
    Half* plane = to.at + n * to.apart;
#if defined(__AVX512BF16__) && defined(__AVX512VL__) && defined(__AVX512BW__)
    const __m256i halves = (__m256i)_mm512_cvtneps_pbh((__m512)x);
    memcpy(plane, &halves, sizeof halves);
    x = x - widened(halves);
#else
    for (int i = 0; i < 16; i++) {
      plane[i] = nearest(x[i]);
      x[i] -= widened(plane[i]);
    }
#endif
  }
}

// 32 numbers.
template <int N>
static inline void split(Vector left, Vector right, const Halves<N>& to) {
#if defined(__AVX512BF16__) && defined(__AVX512VL__) && defined(__AVX512BW__)
  for (int n = 0; n < N; n++) {
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)right, (__m512)left);
    memcpy(to.at + n * to.apart, &halves, sizeof halves);
    left = left - widened(_mm512_castsi512_si256(halves));
    right = right - widened(_mm512_extracti64x4_epi64(halves, 1));
  }
#else
  split(left, to);
  split(right, to.from(0, 16));
#endif
}

template <int N>
static inline void split(const float* x, int64_t count, Halves<N> to) {
  for (; count >= 32; count -= 32, x += 32, to.at += 32) split(load(x), load(x + 16), to);
  for (; count >= 16; count -= 16, x += 16, to.at += 16) split(load(x), to);
  if (count <= 0) return;
  alignas(64) Half some[16 * N];
  const Halves<N> part(some, 1, 16);
  split(load_some(x, count), part);
  for (int n = 0; n < N; n++) memcpy(to.at + n * to.apart, some + n * part.apart, count * sizeof(Half));
}

// Rows of `count` numbers, with zeros up to a whole step.
template <int N>
static inline void split_rows(const float* x, int64_t x_pitch, int64_t rows, int64_t count, Halves<N> to) {
  const int64_t padding = steps_of(count) * kStep - count;
  for (int64_t r = 0; r < rows; r++, x += x_pitch, to.at += to.pitch) {
    split(x, count, to);
    if (padding) to.from(0, count).clear(padding);
  }
}

// Numbers as the sum of N parts. A single part is a float. Several are bfloat16 of 8 bits each, for AMX: two are within
// 2^-17 of the number, three are exact.

#pragma once

#include <type_traits>

#include "vectors.h"

typedef uint16_t Half;

template <int N>
using Part = std::conditional_t<N == 1, float, Half>;

static const int64_t kColumns = 32;  // per panel: two tiles of 16

// Rows of a step of a matrix, and the size of a step for each part of the numbers.
template <int N>
static const int64_t kStep = N == 1 ? 8 : 32;
template <int N>
static const int64_t kPlane = kStep<N> * kColumns;

template <int N>
static const int64_t kRows = N == 1 ? 24 : 32;  // multiplied at once
template <int N>
static const int64_t kDeep = N > 1         ? 8
                             : kLane == 16 ? 32
                                           : 16;  // steps of a panel that fit L1
template <int N>
static const int64_t kHeld = N == 1 ? 1 << 19 : 1 << 20;  // bytes of rows that fit L2

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <int N>
static inline int64_t steps_of(int64_t depth) {
  return ceiling(depth, kStep<N>);
}

// Distance of two rows: an odd number of cache lines, so the rows of a tile fall into different cache sets.
template <int N>
static inline int64_t pitch_of(int64_t depth) {
  const int64_t line = 64 / sizeof(Part<N>);
  return (ceiling(depth, line) | 1) * line;
}

// Rows of numbers, in one plane per part, the largest part first.
template <int N>
struct Numbers {
  Part<N>* at;
  int64_t pitch, apart;  // between rows, and between planes

  static size_t bytes(int64_t rows, int64_t pitch) { return N * rows * pitch * sizeof(Part<N>); }

  Numbers(void* memory, int64_t rows, int64_t row_pitch)
      : at((Part<N>*)memory), pitch(row_pitch), apart(rows * row_pitch) {}

  void* end() const { return at + N * apart; }

  Numbers from(int64_t row, int64_t column) const {
    Numbers some = *this;
    some.at += row * pitch + column;
    return some;
  }

  void clear(int64_t count) const {
    for (int n = 0; n < N; n++) memset(at + n * apart, 0, count * sizeof(Part<N>));
  }
};

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

#if defined(__AVX512BF16__) && defined(__AVX512VL__) && defined(__AVX512BW__)
#define STEMIFY_HALVES 1  // conversion instructions exist
static inline Vector widened(__m256i halves) { return {(Lane)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)}; }
#endif

static inline void split(Vector x, const Numbers<1>& to) { store(to.at, x); }

static inline void split(Vector left, Vector right, const Numbers<1>& to) {
  store(to.at, left);
  store(to.at + 16, right);
}

static inline void split(const float* x, int64_t count, Numbers<1> to) { memcpy(to.at, x, count * sizeof(float)); }

// 16 numbers.
template <int N>
static inline void split(Vector x, const Numbers<N>& to) {
  for (int n = 0; n < N; n++) {
    Half* plane = to.at + n * to.apart;
#if defined(STEMIFY_HALVES)
    const __m256i halves = (__m256i)_mm512_cvtneps_pbh((__m512)x.lanes[0]);
    memcpy(plane, &halves, sizeof halves);
    x -= widened(halves);
#else
    for (int i = 0; i < 16; i++) {
      const Half half = nearest(x[i]);
      plane[i] = half;
      x.set(i, x[i] - widened(half));
    }
#endif
  }
}

// 32 numbers.
template <int N>
static inline void split(Vector left, Vector right, const Numbers<N>& to) {
#if defined(STEMIFY_HALVES)
  for (int n = 0; n < N; n++) {
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)right.lanes[0], (__m512)left.lanes[0]);
    memcpy(to.at + n * to.apart, &halves, sizeof halves);
    left -= widened(_mm512_castsi512_si256(halves));
    right -= widened(_mm512_extracti64x4_epi64(halves, 1));
  }
#else
  split(left, to);
  split(right, to.from(0, 16));
#endif
}

template <int N>
static inline void split(const float* x, int64_t count, Numbers<N> to) {
  for (; count >= 32; count -= 32, x += 32, to.at += 32) split(load(x), load(x + 16), to);
  for (; count >= 16; count -= 16, x += 16, to.at += 16) split(load(x), to);
  if (count <= 0) return;
  alignas(64) Half some[16 * N];
  const Numbers<N> part(some, 1, 16);
  split(load_some(x, count), part);
  for (int n = 0; n < N; n++) memcpy(to.at + n * to.apart, some + n * part.apart, count * sizeof(Half));
}

// Split rows of `count` numbers and pad them with zeros to a whole step.
template <int N>
static inline void split_rows(const float* x, int64_t x_pitch, int64_t rows, int64_t count, Numbers<N> to) {
  const int64_t padding = steps_of<N>(count) * kStep<N> - count;
  for (int64_t r = 0; r < rows; r++, x += x_pitch, to.at += to.pitch) {
    split(x, count, to);
    if (padding) to.from(0, count).clear(padding);
  }
}

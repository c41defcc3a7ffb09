// Vectors of 16 floats and the functions of a network.
//
// They use the vector extensions of GCC and Clang in lanes of the processor's register width, so they compile for any
// processor; with AVX-512 some operations use dedicated instructions.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
static const int64_t kLane = 16;
#elif defined(__AVX__)
static const int64_t kLane = 8;
#else
static const int64_t kLane = 4;
#endif

typedef float Lane __attribute__((vector_size(kLane * sizeof(float))));
typedef int32_t WholeLane __attribute__((vector_size(kLane * sizeof(float))));

static const int64_t kLanes = 16 / kLane;  // per vector

struct Vector {
  Lane lanes[kLanes];

  float operator[](int64_t i) const { return lanes[i / kLane][i % kLane]; }
  void set(int64_t i, float value) { lanes[i / kLane][i % kLane] = value; }
};

template <class Function>
static inline Vector each(Function of_lane) {
  Vector v;
  v.lanes[0] = of_lane(0);  // unrolled, so the compiler keeps them in registers
  if constexpr (kLanes > 1) v.lanes[1] = of_lane(1);
  if constexpr (kLanes > 2) v.lanes[2] = of_lane(2), v.lanes[3] = of_lane(3);
  return v;
}

static inline Vector all(float value) {
  return each([&](int64_t) { return value - Lane{}; });
}

#define STEMIFY_OPERATOR(sign)                                                           \
  static inline Vector operator sign(const Vector& a, const Vector& b) {                 \
    return each([&](int64_t i) { return a.lanes[i] sign b.lanes[i]; });                  \
  }                                                                                      \
  static inline Vector operator sign(const Vector& a, float b) { return a sign all(b); } \
  static inline Vector operator sign(float a, const Vector& b) { return all(a) sign b; } \
  static inline Vector& operator sign## = (Vector & a, const Vector& b) { return a = a sign b; }
STEMIFY_OPERATOR(+)
STEMIFY_OPERATOR(-)
STEMIFY_OPERATOR(*)
STEMIFY_OPERATOR(/)
#undef STEMIFY_OPERATOR

typedef float LaneAt __attribute__((vector_size(kLane * sizeof(float)), aligned(4), may_alias));  // unaligned

static inline Lane load_lane(const float* from) { return *(const LaneAt*)from; }
static inline void store_lane(float* to, Lane lane) { *(LaneAt*)to = lane; }

static inline Vector load(const float* from) {
  return each([&](int64_t i) { return load_lane(from + i * kLane); });
}

static inline void store(float* to, const Vector& v) {
  for (int64_t i = 0; i < kLanes; i++) store_lane(to + i * kLane, v.lanes[i]);
}

// The first `count` values, then zeros.
static inline Vector load_some(const float* from, int64_t count) {
  if (count >= 16) return load(from);
  Vector v = all(0);
  for (int64_t i = 0; i < 16; i++)
    if (i < count) v.set(i, from[i]);
  return v;
}

static inline void store_some(float* to, const Vector& v, int64_t count) {
  if (count >= 16) return store(to, v);
  for (int64_t i = 0; i < 16; i++)
    if (i < count) to[i] = v[i];
}

// Store to a 64-byte-aligned address past the caches, for results larger than these.
static inline void store_far(float* to, const Vector& v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, (__m512)v.lanes[0]);
#elif defined(__AVX__)
  for (int64_t i = 0; i < kLanes; i++) _mm256_stream_ps(to + i * kLane, (__m256)v.lanes[i]);
#else
  store(to, v);
#endif
}

// After the last `store_far` of a thread.
static inline void arrive() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

static inline void fetch(const void* at) { __builtin_prefetch(at); }

// a where `less` < `than`, otherwise b.
static inline Vector select(const Vector& a, const Vector& b, const Vector& less, float than) {
  return each([&](int64_t i) { return less.lanes[i] < than ? a.lanes[i] : b.lanes[i]; });
}

static inline Vector larger(const Vector& a, const Vector& b) {
  return each([&](int64_t i) { return a.lanes[i] > b.lanes[i] ? a.lanes[i] : b.lanes[i]; });
}

static inline float largest(const Vector& v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v.lanes[0]);
#else
  Lane most = v.lanes[0];
  for (int64_t i = 1; i < kLanes; i++) most = v.lanes[i] > most ? v.lanes[i] : most;
  float found = most[0];
  for (int64_t i = 1; i < kLane; i++) found = most[i] > found ? most[i] : found;
  return found;
#endif
}

static inline bool any_above(const Vector& v, float limit) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)v.lanes[0], (__m512)all(limit).lanes[0], _CMP_GT_OQ) != 0;
#else
  return largest(v) > limit;
#endif
}

static inline float sum_of(const Vector& v) {
  float sum = 0;
  for (int i = 0; i < 16; i++) sum += v[i];
  return sum;
}

// 1 / x for finite x.
static inline Vector inverse(const Vector& x) {
#if defined(__AVX512F__)
  const Vector near{(Lane)_mm512_rcp14_ps((__m512)x.lanes[0])};
  return near * (2.f - x * near);
#else
  return 1.f / x;
#endif
}

static inline Vector nearest_whole(const Vector& x) {
#if defined(__AVX512F__)
  return {(Lane)_mm512_roundscale_ps((__m512)x.lanes[0], 8)};
#else
  return (x + 12582912.f) - 12582912.f;
#endif
}

// p * 2^power, for an integer power of at least -126.
static inline Vector scaled(const Vector& p, const Vector& power) {
#if defined(__AVX512F__)
  return {(Lane)_mm512_scalef_ps((__m512)p.lanes[0], (__m512)power.lanes[0])};
#else
  return each([&](int64_t i) {
    const WholeLane bits = (__builtin_convertvector(power.lanes[i], WholeLane) + 127) << 23;
    return p.lanes[i] * (Lane)bits;
  });
#endif
}

// 2^x for x below 127, within 2.5e-7.
static inline Vector exp2_of(Vector x) {
#if !defined(__AVX512F__)
  x = larger(all(-126.f), x);  // this order of arguments propagates NaN
#endif
  const Vector whole = nearest_whole(x), r = x - whole;
  Vector p = 0.00132765f * r + 0.00967554f;
  p = p * r + 0.05550713f;
  p = p * r + 0.2402212f;
  p = p * r + 0.69314697f;
  p = p * r + 1.00000007f;
  return scaled(p, whole);
}

static const float kLog2OfE = 1.44269504f;

static inline Vector sigmoid(const Vector& x) {
  const Vector power = x * -kLog2OfE;
  return inverse(1.f + exp2_of(select(all(126.f), power, 126.f - power, 0.f)));
}

// Half of x (1 + erf(x / sqrt(2))), erf as in Abramowitz and Stegun, 7.1.26, within 1.5e-7.
static inline Vector gelu(const Vector& x) {
  const Vector z = x * 0.70710678f, a = larger(z, 0.f - z), t = inverse(1.f + 0.3275911f * a);
  Vector p = 1.061405429f * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vector rest = p * t * exp2_of(a * a * -kLog2OfE);
  return 0.5f * x * select(rest, 2.f - rest, z, 0.f);
}

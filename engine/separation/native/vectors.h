// Sixteen numbers at once, and the functions that a network needs of them.
//
// Written with the vectors of GCC and Clang, so that it compiles for any processor; with AVX-512 a few of the
// operations have an instruction of their own.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

typedef float Vector __attribute__((vector_size(64)));
typedef int32_t Whole __attribute__((vector_size(64)));

static const float kLog2OfE = 1.44269504f;

static inline Vector load(const float* from) {
  Vector v;
  memcpy(&v, from, sizeof v);
  return v;
}

static inline void store(float* to, Vector v) { memcpy(to, &v, sizeof v); }

// The first `count` of them, and zeros.
static inline Vector load_some(const float* from, int64_t count) {
  if (count >= 16) return load(from);
  Vector v{};
  for (int64_t i = 0; i < 16; i++)
    if (i < count) v[i] = from[i];
  return v;
}

static inline void store_some(float* to, Vector v, int64_t count) {
  if (count >= 16) return store(to, v);
  for (int64_t i = 0; i < 16; i++)
    if (i < count) to[i] = v[i];
}

// To an address that is a multiple of 64, past the caches: for what is larger than they are.
static inline void store_far(float* to, Vector v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, (__m512)v);
#else
  store(to, v);
#endif
}

// After the last `store_far` of a thread.
static inline void arrive() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

static inline void fetch(const void* at) {
#if defined(__AVX512F__)
  _mm_prefetch((const char*)at, _MM_HINT_T0);
#else
  (void)at;
#endif
}

static inline Vector all(float value) { return Vector{} + value; }

static inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

static inline float largest(Vector v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float most = v[0];
  for (int i = 1; i < 16; i++) most = v[i] > most ? v[i] : most;
  return most;
#endif
}

static inline bool any_above(Vector v, float limit) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)v, (__m512)all(limit), _CMP_GT_OQ) != 0;
#else
  return largest(v) > limit;
#endif
}

static inline float sum_of(Vector v) {
  float sum = 0;
  for (int i = 0; i < 16; i++) sum += v[i];
  return sum;
}

// 1 / x, for x that is finite.
static inline Vector inverse(Vector x) {
#if defined(__AVX512F__)
  const Vector near = (Vector)_mm512_rcp14_ps((__m512)x);
  return near * (2.f - x * near);
#else
  return 1.f / x;
#endif
}

// 2 to the power of x, for x below 127; within 2.5e-7 of it.
static inline Vector exp2_of(Vector x) {
#if defined(__AVX512F__)
  const Vector whole = (Vector)_mm512_roundscale_ps((__m512)x, 8);
#else
  x = larger(x, all(-126.f));
  const Vector whole = (x + 12582912.f) - 12582912.f;
#endif
  const Vector r = x - whole;
  Vector p = 0.00132765f * r + 0.00967554f;
  p = p * r + 0.05550713f;
  p = p * r + 0.2402212f;
  p = p * r + 0.69314697f;
  p = p * r + 1.00000007f;
#if defined(__AVX512F__)
  return (Vector)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
  const Whole bits = (__builtin_convertvector(whole, Whole) + 127) << 23;
  Vector power;
  memcpy(&power, &bits, sizeof power);
  return p * power;
#endif
}

static inline Vector sigmoid(Vector x) {
  const Vector power = x * -kLog2OfE;
  return inverse(1.f + exp2_of(power > 126.f ? all(126.f) : power));
}

// Half of x (1 + erf(x / sqrt(2))), erf as in Abramowitz and Stegun, 7.1.26, within 1.5e-7.
static inline Vector gelu(Vector x) {
  const Vector z = x * 0.70710678f, a = z < 0.f ? -z : z, t = inverse(1.f + 0.3275911f * a);
  Vector p = 1.061405429f * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vector rest = p * t * exp2_of(a * a * -kLog2OfE);
  return 0.5f * x * (z < 0.f ? rest : 2.f - rest);
}

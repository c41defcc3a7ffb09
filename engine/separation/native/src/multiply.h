// Multiply packed matrices with vectors or tiles, and scratch memory for it.

#pragma once

#include <cstdlib>

#include "amx.h"
#include "fma.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

template <int N>
struct Units : Tiles {};  // exists while a thread multiplies
template <>
struct Units<1> {
  Units() {}
};

// Set c (rows of 32) to rows * some steps of a panel, or add to it. c is written up to a multiple of `kRows`. As many
// steps of `next` are prefetched. `vector_work` is called once per step of each `kRows`: between the steps of tiles, or
// after the multiplication if that uses the vector units.
template <int N, class VectorWork>
static inline void multiply_block(const Numbers<N>& a, int64_t rows, const Part<N>* b, int64_t steps, float* c,
                                  bool more, const Part<N>* next, VectorWork vector_work) {
  if constexpr (N == 1) {
    multiply_floats(a, rows, b, steps, c, more, 2, next ? next : b);
    for (int64_t i = 0; i < ceiling(rows, kRows<1>) * steps; i++) vector_work();
  } else {
    const int64_t lines = next ? ceiling(N * kPlane<N> / 32, ceiling(rows, kRows<N>)) : 0;
    for (int64_t r = 0; r < rows; r += kRows<N>)
      multiply_tiles(a.from(r, 0), b, steps, c + r * kColumns, more, Ahead{next + r / kRows<N> * lines * 32, lines},
                     vector_work);
  }
}

// Multiply rows by a whole panel and prefetch the memory behind it.
template <int N, class VectorWork>
static inline void multiply_rows(const Numbers<N>& a, int64_t rows, const Part<N>* panel, int64_t steps, float* c,
                                 VectorWork vector_work) {
  for (int64_t s = 0; s < steps; s += kDeep<N>) {
    const int64_t some = least(steps - s, kDeep<N>);
    multiply_block(a.from(0, s * kStep<N>), rows, panel + s * N * kPlane<N>, some, c, s > 0,
                   panel + (s + some) * N * kPlane<N>, vector_work);
  }
}

static inline int most_threads() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

static inline int thread_number() {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}

// Result of every `stemify_` op. Python raises MemoryError for `kNoMemory`.
enum Result { kDone, kNoMemory };

// Memory of a calling thread, kept between calls. Allocated before a parallel region, which could not return a failure.
class Scratch {
 public:
  // Return null without memory.
  char* bytes(size_t want) {
    if (want > held_) {
      free(at_);
      held_ = (want + kPage - 1) / kPage * kPage;
      at_ = (char*)aligned_alloc(kPage, held_);
      if (at_ == nullptr) held_ = 0;
#if defined(MADV_HUGEPAGE)
      if (at_ != nullptr) madvise(at_, held_, MADV_HUGEPAGE);
#endif
    }
    return at_;
  }
  ~Scratch() { free(at_); }

 private:
  static const size_t kPage = 1 << 21;
  char* at_ = nullptr;
  size_t held_ = 0;
};

extern thread_local Scratch scratch;

// The same number of bytes for each thread of a parallel region.
class ThreadMemory {
 public:
  static size_t rounded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
  static size_t bytes_of_all(size_t bytes) { return most_threads() * rounded(bytes); }

  explicit ThreadMemory(size_t bytes) : ThreadMemory(scratch.bytes(bytes_of_all(bytes)), bytes) {}
  ThreadMemory(char* first, size_t bytes) : first_(first), bytes_(rounded(bytes)) {}

  bool is_missing() const { return first_ == nullptr; }
  char* own() const { return first_ + thread_number() * bytes_; }

 private:
  static const size_t kAlignment = 4096;
  char* first_;
  size_t bytes_;
};

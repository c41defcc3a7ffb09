// Products of matrices that have been packed, whatever they are made with.

#pragma once

#include <cstdlib>

#include "amx.h"
#include "fma.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

template <int N>
struct Units : Tiles {};  // as long as a thread multiplies
template <>
struct Units<1> {
  Units() {}
};

// c (rows of 32), or what is in it already, = rows * some steps of a panel. c is written up to a multiple of `kRows`.
// `next`, if there is one, is fetched: as many steps again. `meanwhile` is called as often as there are steps for each
// `kRows`: between those of tiles; after what vectors multiply, which have no time for more.
template <int N, class Meanwhile>
static inline void multiply_block(const Numbers<N>& a, int64_t rows, const Part<N>* b, int64_t steps, float* c,
                                  bool more, const Part<N>* next, Meanwhile meanwhile) {
  if constexpr (N == 1) {
    multiply_floats(a, rows, b, steps, c, more, 2, next ? next : b);
    for (int64_t i = 0; i < ceiling(rows, kRows<1>) * steps; i++) meanwhile();
  } else {
    const int64_t lines = next ? ceiling(N * kPlane<N> / 32, ceiling(rows, kRows<N>)) : 0;
    for (int64_t r = 0; r < rows; r += kRows<N>)
      multiply_tiles(a.from(r, 0), b, steps, c + r * kColumns, more, Ahead{next + r / kRows<N> * lines * 32, lines},
                     meanwhile);
  }
}

// Rows * a whole panel; what follows the panel in memory is fetched ahead.
template <int N, class Meanwhile>
static inline void multiply_rows(const Numbers<N>& a, int64_t rows, const Part<N>* panel, int64_t steps, float* c,
                                 Meanwhile meanwhile) {
  for (int64_t s = 0; s < steps; s += kDeep<N>) {
    const int64_t some = least(steps - s, kDeep<N>);
    multiply_block(a.from(0, s * kStep<N>), rows, panel + s * N * kPlane<N>, some, c, s > 0,
                   panel + (s + some) * N * kPlane<N>, meanwhile);
  }
}

// Memory of a thread, kept from one call to the next.
class Scratch {
 public:
  void* bytes(size_t want) {
    if (want > held_) {
      free(at_);
      held_ = (want + kPage - 1) / kPage * kPage;
      at_ = aligned_alloc(kPage, held_);
      if (at_ == nullptr) abort();
#if defined(MADV_HUGEPAGE)
      madvise(at_, held_, MADV_HUGEPAGE);
#endif
    }
    return at_;
  }
  ~Scratch() { free(at_); }

 private:
  static const size_t kPage = 1 << 21;
  void* at_ = nullptr;
  size_t held_ = 0;
};

extern thread_local Scratch scratch;

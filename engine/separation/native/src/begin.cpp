// Request permission to use the tiles, once per process.

#include "multiply.h"

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

thread_local Scratch scratch;

extern "C" int stemify_begin() {
#if defined(__AMX_BF16__)
  const int ask = 0x1023, tiles = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA: Linux requires the request
  return (int)syscall(SYS_arch_prctl, ask, tiles);
#else
  return 0;
#endif
}

extern "C" int stemify_has_tiles() {
#if defined(__AMX_BF16__)
  return 1;
#else
  return 0;
#endif
}

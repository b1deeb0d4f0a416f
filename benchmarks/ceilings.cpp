// What this machine can do at best, in plain loops that nothing of petaflop or its peers has a part in:
// multiply-adds per second of each dtype, and bytes per second that are read or copied.
// Built by _ceilings.py with -O3 -march=native; every function returns a rate of all `threads` together.

#include <immintrin.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;
typedef float Floats __attribute__((vector_size(64)));
typedef uint64_t Words __attribute__((vector_size(64)));

// Seconds that `work(thread)` takes on all threads, from a common start to the last end.
static double together(int threads, const std::function<void(int)>& work) {
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  auto run = [&](int thread) {
    ready++;
    while (!go) {}
    work(thread);
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; thread++) others.emplace_back(run, thread);
  while (ready < threads - 1) {}
  auto started = Clock::now();
  go = true;
  work(0);
  for (auto& other : others) other.join();
  return std::chrono::duration<double>(Clock::now() - started).count();
}

static double best(int repeats, int threads, double amount, const std::function<void(int)>& work) {
  double rate = 0;
  for (int k = 0; k < repeats; k++) rate = std::max(rate, amount * threads / together(threads, work));
  return rate;
}

static volatile float float_sink;
static volatile uint64_t word_sink;
static const long STEPS = 400000;
static const int CHAINS = 12;  // enough to hide the latency of two units

static void multiply_add_floats(int) {
  Floats sums[CHAINS] = {}, factor = Floats{} + 0.999f, term = Floats{} + 0.5f;
  for (long step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++) {
      sums[k] = sums[k] * factor + term;
      asm volatile("" : "+v"(sums[k]));
    }
  }
  for (int k = 0; k < CHAINS; k++) float_sink = sums[k][0];
}

extern "C" double peak_float32(int threads) {
  return best(40, threads, 2.0 * 16 * CHAINS * STEPS, multiply_add_floats);
}

#if defined(__AMX_TILE__)
struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t columns[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

static bool has_tiles() {
  const int ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}

// Four accumulators, two rows and two columns of tiles: the block that a product of matrices uses.
#define TILES(NAME, INSTRUCTION)                                    \
  static void NAME(int) {                                           \
    static const TileShapes shapes;                                 \
    _tile_loadconfig(&shapes);                                      \
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);     \
    _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);     \
    for (long step = 0; step < STEPS / 8; step++) {                 \
      INSTRUCTION(0, 4, 6); INSTRUCTION(1, 4, 7);                   \
      INSTRUCTION(2, 5, 6); INSTRUCTION(3, 5, 7);                   \
    }                                                               \
    _tile_release();                                                \
  }

#if defined(__AMX_BF16__)
TILES(tiles_bfloat16, _tile_dpbf16ps)
#endif
#if defined(__AMX_INT8__)
TILES(tiles_int8, _tile_dpbssd)
#endif
#endif

#if defined(__AVX512BF16__)
static void dots_bfloat16(int) {
  __m512 sums[CHAINS] = {};
  __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  for (long step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++) {
      sums[k] = _mm512_dpbf16_ps(sums[k], ones, ones);
      asm volatile("" : "+v"(sums[k]));
    }
  }
  for (int k = 0; k < CHAINS; k++) float_sink = sums[k][0];
}
#endif

#if defined(__AVX512VNNI__)
static void dots_int8(int) {
  __m512i sums[CHAINS] = {}, ones = _mm512_set1_epi8(1);
  for (long step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++) {
      sums[k] = _mm512_dpbusd_epi32(sums[k], ones, ones);
      asm volatile("" : "+v"(sums[k]));
    }
  }
  for (int k = 0; k < CHAINS; k++) word_sink = sums[k][0];
}
#endif

// Zero where this machine has no instruction for it.
extern "C" double peak_bfloat16_dots(int threads) {
#if defined(__AVX512BF16__)
  return best(40, threads, 2.0 * 32 * CHAINS * STEPS, dots_bfloat16);
#else
  return 0;
#endif
}

extern "C" double peak_int8_dots(int threads) {
#if defined(__AVX512VNNI__)
  return best(40, threads, 2.0 * 64 * CHAINS * STEPS, dots_int8);
#else
  return 0;
#endif
}

extern "C" double peak_bfloat16_tiles(int threads) {
#if defined(__AMX_BF16__)
  if (has_tiles()) return best(40, threads, 2.0 * 16 * 16 * 32 * 4 * (STEPS / 8), tiles_bfloat16);
#endif
  return 0;
}

extern "C" double peak_int8_tiles(int threads) {
#if defined(__AMX_INT8__)
  if (has_tiles()) return best(40, threads, 2.0 * 16 * 16 * 64 * 4 * (STEPS / 8), tiles_int8);
#endif
  return 0;
}

// `count` bytes on pages of their own kind of size: huge ones where the system has them, as all sides get.
static char* memory(size_t count) {
  char* place = (char*)aligned_alloc(2 << 20, count);
  madvise(place, count, MADV_HUGEPAGE);
  memset(place, 1, count);
  return place;
}

extern "C" double read_bandwidth(int threads, size_t bytes) {
  size_t part = bytes / threads / 512 * 512;
  char* place = memory(bytes);
  double rate = best(12, threads, part, [&](int thread) {
    const Words *at = (const Words*)(place + part * thread), *end = at + part / 64;
    Words sums[8] = {};
    for (; at < end; at += 8)
#pragma GCC unroll 8
      for (int k = 0; k < 8; k++) sums[k] += at[k];
    for (int k = 1; k < 8; k++) sums[0] += sums[k];
    word_sink = sums[0][0];
  });
  free(place);
  return rate;
}

// Bytes read plus bytes written; the better of stores through the caches and past them.
extern "C" double copy_bandwidth(int threads, size_t bytes) {
  size_t part = bytes / threads / 512 * 512;
  char *from = memory(bytes), *to = memory(bytes);
  double through = best(12, threads, 2.0 * part, [&](int thread) {
    const Words* at = (const Words*)(from + part * thread);
    Words* out = (Words*)(to + part * thread);
    for (size_t k = 0; k < part / 64; k++) {
      out[k] = at[k];
      asm volatile("" ::: "memory");
    }
  });
  double past = best(12, threads, 2.0 * part, [&](int thread) {
    const __m256i* at = (const __m256i*)(from + part * thread);
    __m256i* out = (__m256i*)(to + part * thread);
    for (size_t k = 0; k < part / 32; k++) _mm256_stream_si256(out + k, _mm256_load_si256(at + k));
    _mm_sfence();
  });
  free(from), free(to);
  return std::max(through, past);
}

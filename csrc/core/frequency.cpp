// effective clock = instructions * latency / time of a chain in which every instruction waits for the one before.
//
// x86: a 64-bit imul takes 3 cycles on Intel since Nehalem and on AMD since Zen (Fog, Instruction tables). An addition
// would not do: recent cores perform additions of constants while renaming, in no time.
// Arm: a 64-bit add takes 1 cycle on every Cortex-A, Neoverse and Apple core.
// The shortest of several runs counts, because an interruption only lengthens one.
#include "core/frequency.h"

#include <stdint.h>

#include <algorithm>
#include <chrono>

namespace pyhpc {
namespace {

#if defined(__x86_64__)
constexpr int latency_cycles = 3;
#define PYHPC_LINK "imul %0, %0\n\t"
#elif defined(__aarch64__)
constexpr int latency_cycles = 1;
#define PYHPC_LINK "add %0, %0, %0\n\t"
#else
constexpr int latency_cycles = 0;
#define PYHPC_LINK ""
#endif
#define PYHPC_LINKS_16                                                                                          \
  PYHPC_LINK PYHPC_LINK PYHPC_LINK PYHPC_LINK PYHPC_LINK PYHPC_LINK PYHPC_LINK PYHPC_LINK PYHPC_LINK PYHPC_LINK \
      PYHPC_LINK PYHPC_LINK PYHPC_LINK PYHPC_LINK PYHPC_LINK PYHPC_LINK

double chain_seconds(int rounds) {
  uint64_t value = 3;
  const auto begin = std::chrono::steady_clock::now();
  for (int round = 0; round < rounds; ++round) __asm__ volatile(PYHPC_LINKS_16 : "+r"(value) : : "cc");
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

double effective_hertz() {
  constexpr int rounds = 4000, runs = 8;  // a run is 192 000 cycles on x86: some 60 us
  double shortest = chain_seconds(rounds);
  for (int run = 1; run < runs; ++run) shortest = std::min(shortest, chain_seconds(rounds));
  return latency_cycles == 0 ? 0 : 16.0 * rounds * latency_cycles / shortest;
}

}  // namespace pyhpc

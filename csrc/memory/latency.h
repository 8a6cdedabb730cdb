// How long a cache line takes from one core to another: two threads of their own, each pinned to one core, answer each
// other through two lines, each written by one of them only (as flags of a barrier are). The calling thread's affinity
// is not touched. Tells cores that share a core, a cluster, a socket or none of them apart.
#pragma once
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "core/error.h"

namespace pyhpc::memory {

struct alignas(128) Flag {  // 128: adjacent lines are fetched in pairs
  std::atomic<int64_t> value{0};

  // Spins, and yields now and then so that two threads that share one busy core come to an end.
  bool wait_for(int64_t wanted) const {
    for (int64_t spin = 1; value.load(std::memory_order_acquire) < wanted; ++spin)
      if (spin % 65536 == 0) sched_yield();
    return value.load(std::memory_order_relaxed) == wanted;
  }
};

inline std::string list_cores(const cpu_set_t& set) {
  std::string list;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) list += (list.empty() ? "" : ", ") + std::to_string(core);
  return list;
}

inline void require_cores(int core_a, int core_b) {
  cpu_set_t usable;
  CPU_ZERO(&usable);
  if (sched_getaffinity(0, sizeof usable, &usable) != 0)
    throw Error(ErrorKind::unsupported, "the system does not tell which cores this process may use");
  if (CPU_COUNT(&usable) < 2)
    throw Error(ErrorKind::unsupported,
                "line latency needs two cores, but this process may use only core " + list_cores(usable));
  for (const int core : {core_a, core_b})
    if (core < 0 || core >= CPU_SETSIZE || !CPU_ISSET(core, &usable))
      throw Error(ErrorKind::unsupported,
                  "this process may not use core " + std::to_string(core) + "; it may use " + list_cores(usable));
  require(core_a != core_b, "core_a and core_b are both " + std::to_string(core_a) + "; line latency needs two cores");
}

inline bool pin_to(int core) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  return pthread_setaffinity_np(pthread_self(), sizeof one, &one) == 0;
}

// Seconds of one transfer, one way, averaged over `rounds` there-and-backs.
inline double line_latency(int core_a, int core_b, int64_t rounds) {
  require(rounds > 0, "rounds is " + std::to_string(rounds) + "; it must be at least 1");
  require_cores(core_a, core_b);
  constexpr int64_t warm_up = 1000;
  constexpr int64_t stop = INT64_MAX;  // sent by a thread that could not be pinned
  Flag there, back;
  std::thread other([&] {
    if (!pin_to(core_b)) return back.value.store(stop);
    for (int64_t round = 1; round <= warm_up + rounds && there.wait_for(round); ++round)
      back.value.store(round, std::memory_order_release);
  });
  double seconds = -1;
  std::thread one([&] {
    if (!pin_to(core_a)) return there.value.store(stop);
    auto start = std::chrono::steady_clock::now();
    for (int64_t round = 1; round <= warm_up + rounds; ++round) {
      there.value.store(round, std::memory_order_release);
      if (!back.wait_for(round)) return there.value.store(stop);
      if (round == warm_up) start = std::chrono::steady_clock::now();
    }
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  });
  one.join();
  other.join();
  if (seconds < 0)
    throw Error(ErrorKind::unsupported, "the system did not let a thread be pinned to core " + std::to_string(core_a) +
                                            " or " + std::to_string(core_b));
  return seconds / (2 * static_cast<double>(rounds));
}

}  // namespace pyhpc::memory

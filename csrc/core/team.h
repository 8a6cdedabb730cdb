// A team of OpenMP threads: its fork, barrier and join.
// For target files too, so everything has internal linkage.
#pragma once
#include <omp.h>
#include <stdint.h>

namespace pyhpc {
namespace {

// One thread of the team that works on something together.
struct Team {
  int rank, size;
  int64_t* taken = nullptr;  // where there are several: two counters that all share, 0 at first

  // Every thread's writes before it are seen by every thread after it.
  void barrier() const {
    if (size == 1) return;
#pragma omp barrier
  }
};

// work(Team{rank, threads}) for every rank, each on its own thread. Should OpenMP give fewer threads than asked (inside
// another parallel region, or under a thread limit), ranks would be missing, so then one thread works alone.
template <class Work>
inline void in_parallel(int threads, const Work& work) {
  if (threads == 1) return work(Team{0, 1});
  int64_t taken[2] = {};
#pragma omp parallel num_threads(threads)
  {
    if (omp_get_num_threads() == threads)
      work(Team{omp_get_thread_num(), threads, taken});
    else if (omp_get_thread_num() == 0)
      work(Team{0, 1});
  }
}

}  // namespace
}  // namespace pyhpc

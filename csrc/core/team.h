// A team of OpenMP threads: its fork, barrier and join, and what they order, told to ThreadSanitizer as well, which
// cannot look into an OpenMP runtime that is not instrumented and would report every shared buffer.
// For target files too, so everything has internal linkage.
#pragma once
#include <omp.h>

#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace pyhpc {
namespace {

#if defined(__SANITIZE_THREAD__)
char team_order;  // the address that stands for "what happened before a fork, barrier or join"
inline void publish() { __tsan_release(&team_order); }
inline void observe() { __tsan_acquire(&team_order); }
#else
inline void publish() {}
inline void observe() {}
#endif

// One thread of the team that works on something together.
struct Team {
  int rank, size;

  // Every thread's writes before it are seen by every thread after it.
  void barrier() const {
    if (size == 1) return;
    publish();
#pragma omp barrier
    observe();
  }
};

// work(Team{rank, threads}) for every rank, each on its own thread. Should OpenMP give fewer threads than asked (inside
// another parallel region, or under a thread limit), ranks would be missing, so then one thread works alone.
template <class Work>
inline void in_parallel(int threads, const Work& work) {
  if (threads == 1) return work(Team{0, 1});
  publish();
#pragma omp parallel num_threads(threads)
  {
    observe();
    if (omp_get_num_threads() == threads)
      work(Team{omp_get_thread_num(), threads});
    else if (omp_get_thread_num() == 0)
      work(Team{0, 1});
    publish();
  }
  observe();
}

}  // namespace
}  // namespace pyhpc

// The part of an OpenMP runtime that GCC compiles csrc's loops into, made of POSIX threads, which ThreadSanitizer
// knows. GCC's own runtime is not instrumented: the sanitizer would take every fork, barrier and shared loop for a
// race. A parallel region starts its threads and joins them; nested ones have one thread. Linked in libgomp's place.
#include <pthread.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

namespace {

// A team and the loop that it shares out, one at a time.
struct Team {
  explicit Team(unsigned size) : size(size) { pthread_barrier_init(&barrier, nullptr, size); }
  ~Team() { pthread_barrier_destroy(&barrier); }
  const unsigned size;
  pthread_barrier_t barrier;
  std::mutex lock;
  unsigned joined = 0, left = 0;  // threads that have come to the loop, and gone
  long next = 0, end = 0, step = 0, chunk = 0;
};

thread_local Team* team = nullptr;
thread_local unsigned rank = 0;
std::mutex atomic_lock;

void work(void (*body)(void*), void* data, Team* mine, unsigned number) {
  Team* const outer = team;
  const unsigned before = rank;
  team = mine, rank = number;
  body(data);
  team = outer, rank = before;
}

}  // namespace

extern "C" {

int omp_get_thread_num() { return static_cast<int>(rank); }
int omp_get_num_threads() { return team ? static_cast<int>(team->size) : 1; }
int omp_get_max_threads() { return 3; }
int omp_in_parallel() { return team && team->size > 1; }

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  Team one(team ? 1 : threads ? threads : 3);
  std::vector<std::thread> others;
  for (unsigned i = 1; i < one.size; ++i) others.emplace_back(work, body, data, &one, i);
  work(body, data, &one, 0);
  for (std::thread& other : others) other.join();
}

void GOMP_barrier() {
  if (team) pthread_barrier_wait(&team->barrier);
}

bool GOMP_loop_nonmonotonic_dynamic_next(long* begin, long* end) {
  const std::lock_guard<std::mutex> held(team->lock);
  if (team->next >= team->end) return false;
  *begin = team->next;
  *end = team->next = team->next + team->chunk < team->end ? team->next + team->chunk : team->end;
  return true;
}

bool GOMP_loop_nonmonotonic_dynamic_start(long first, long last, long step, long chunk, long* begin, long* end) {
  {
    const std::lock_guard<std::mutex> held(team->lock);
    if (team->joined++ == 0) team->next = first, team->end = last, team->step = step, team->chunk = chunk * step;
  }
  return GOMP_loop_nonmonotonic_dynamic_next(begin, end);
}

void GOMP_loop_end_nowait() {
  const std::lock_guard<std::mutex> held(team->lock);
  if (++team->left == team->size) team->joined = team->left = 0;
}

void GOMP_loop_end() {
  GOMP_loop_end_nowait();
  GOMP_barrier();
}

void GOMP_atomic_start() { atomic_lock.lock(); }
void GOMP_atomic_end() { atomic_lock.unlock(); }

}  // extern "C"

// How many threads a kernel uses: what the caller asked, bounded by what this process may use.
#pragma once

namespace pyhpc {

// Threads available to this process: OMP_NUM_THREADS if set, else the smaller of the affinity mask and the cgroup's CPU
// quota.
int available_threads();

// `requested` > 0 is taken as asked, 0 means available_threads().
inline int thread_count(int requested) { return requested > 0 ? requested : available_threads(); }

}  // namespace pyhpc

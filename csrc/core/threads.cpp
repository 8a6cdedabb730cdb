#include "core/threads.h"

#include <sched.h>
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>

namespace pyhpc {
namespace {

int affinity_count() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

int cgroup_count() {  // cgroup v2: "max 100000" or "<quota> <period>"
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 1 << 20;
  return std::max(1, static_cast<int>(std::floor(std::stod(quota) / period + 0.5)));
}

}  // namespace

int available_threads() {
  if (const char* wanted = getenv("OMP_NUM_THREADS"))
    if (const int count = atoi(wanted); count > 0) return count;
  static const int quota = cgroup_count();
  return std::min(affinity_count(), quota);
}

}  // namespace pyhpc

// Memory that the ranks of a node share: anonymous files, and what the engine keeps in its own one.
//
// A file has no name: one rank makes it with memfd_create and the others open it through /proc/<pid>/fd/<fd>. The
// kernel frees it when the last rank's mapping ends, however that rank ends (SIGKILL included), so nothing is ever left
// behind in /dev/shm. It is sparse: pages that no pair of ranks touches are never allocated.
#pragma once
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <string>

#include "allreduce/ring.h"
#include "core/error.h"

namespace pyhpc::allreduce {

constexpr int64_t huge_page = 2 << 20;
inline int64_t round_up(int64_t bytes, int64_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

[[noreturn]] inline void fail_on(const std::string& action) {
  throw Error(ErrorKind::unsupported, action + " failed: " + strerror(errno));
}

// A mapping of a shared anonymous file, or of memory that somebody else shares and owns.
class SharedMemory {
 public:
  // A new file. It stays open, so that others can open it, until `close_file`.
  static SharedMemory create(int64_t bytes) {
    SharedMemory memory;
    memory.bytes_ = round_up(bytes, huge_page);
    memory.file_ = memfd_create("pyhpc-allreduce", MFD_CLOEXEC);
    if (memory.file_ < 0) fail_on("memfd_create");
    if (ftruncate(memory.file_, memory.bytes_) != 0) fail_on("ftruncate of shared memory");
    memory.map();
    return memory;
  }
  static SharedMemory open(int process, int file, int64_t bytes) {
    SharedMemory memory;
    memory.bytes_ = round_up(bytes, huge_page);
    const std::string path = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(file);
    memory.file_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (memory.file_ < 0) fail_on("opening " + path);
    struct stat status;
    if (fstat(memory.file_, &status) != 0 || status.st_size != memory.bytes_)
      throw Error(ErrorKind::unsupported, path + " is another process's file: the ranks do not see the same processes");
    memory.map();
    memory.close_file();
    return memory;
  }
  static SharedMemory at(uintptr_t address, int64_t bytes) {
    SharedMemory memory;
    memory.bytes_ = bytes, memory.begin_ = reinterpret_cast<char*>(address);
    return memory;
  }

  SharedMemory(SharedMemory&& other) noexcept { swap(other); }
  SharedMemory& operator=(SharedMemory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~SharedMemory() {
    close_file();
    if (mapping_) munmap(mapping_, bytes_ + huge_page);
  }

  char* begin() const { return begin_; }
  int64_t bytes() const { return bytes_; }
  int file() const { return file_; }
  void close_file() {
    if (file_ >= 0) close(file_);
    file_ = -1;
  }
  // Gives the pages of a range back to the system; they read as zero afterwards.
  void discard(char* from, int64_t bytes) {
    if (mapping_) madvise(from, bytes, MADV_REMOVE);
  }

 private:
  SharedMemory() = default;
  void swap(SharedMemory& other) {
    std::swap(mapping_, other.mapping_), std::swap(begin_, other.begin_);
    std::swap(bytes_, other.bytes_), std::swap(file_, other.file_);
  }
  // At a multiple of the huge page, so that the file can be mapped in huge pages: an address range is reserved first.
  void map() {
    void* reserved = mmap(nullptr, bytes_ + huge_page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) fail_on("reserving addresses");
    mapping_ = reserved;
    begin_ = reinterpret_cast<char*>(round_up(reinterpret_cast<int64_t>(reserved), huge_page));
    if (mmap(begin_, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file_, 0) == MAP_FAILED)
      fail_on("mapping shared memory");
    madvise(begin_, bytes_, MADV_HUGEPAGE);  // advice: without huge pages it is slower, not wrong
  }

  void* mapping_ = nullptr;
  char* begin_ = nullptr;
  int64_t bytes_ = 0;
  int file_ = -1;
};

// An error, and the number of the call in which it happened, from 1 on.
struct Failure {
  uint64_t call;
  ErrorKind kind;
  std::string sentence;
};

// What a rank tells the others of its node about itself. All zero at first.
struct alignas(64) RankRecord {
  std::atomic<uint64_t> token_address;  // of a number in the rank's private memory, to try whether it can be read
  std::atomic<uint64_t> token;
  std::atomic<uint64_t> call;      // that it is in, or was in last
  std::atomic<int32_t> waits_for;  // a rank, counted from 1; told once a wait lasts
  // Its error, written once: the call is stored last.
  ErrorKind kind;
  char sentence[1000];
  std::atomic<uint64_t> failed_call;
};

// Offsets in the engine's file: the earliest call that failed, a line for ping-pong, a record per rank, a ring and
// slots per ordered pair.
struct SegmentLayout {
  int ranks;
  int64_t slot_bytes, slots;

  int64_t records() const { return 256; }
  int64_t rings() const { return round_up(records() + ranks * static_cast<int64_t>(sizeof(RankRecord)), 4096); }
  int64_t pairs() const { return static_cast<int64_t>(ranks) * ranks; }
  int64_t slot_area() const {
    return round_up(rings() + pairs() * static_cast<int64_t>(sizeof(RingMemory)), huge_page);
  }
  int64_t bytes() const { return slot_area() + pairs() * slots * slot_bytes; }
  int64_t pair(int from, int to) const { return static_cast<int64_t>(from) * ranks + to; }
};

class Segment {
 public:
  Segment(SharedMemory memory, const SegmentLayout& layout) : layout(layout), memory_(std::move(memory)) {}

  const SegmentLayout layout;
  std::atomic<uint64_t>& bounce() { return *at<std::atomic<uint64_t>>(128); }
  RankRecord& record(int rank) { return at<RankRecord>(layout.records())[rank]; }
  RingMemory* ring(int from, int to) { return at<RingMemory>(layout.rings()) + layout.pair(from, to); }
  char* slots(int from, int to) {
    return at<char>(layout.slot_area()) + layout.pair(from, to) * layout.slots * layout.slot_bytes;
  }

  // The earliest call in which a rank of the node failed; 0: none.
  uint64_t failed_call() { return earliest().load(std::memory_order_acquire); }
  void publish(int rank, const Failure& failure) {
    RankRecord& own = record(rank);
    own.kind = failure.kind;
    snprintf(own.sentence, sizeof own.sentence, "%s", failure.sentence.c_str());
    own.failed_call.store(failure.call, std::memory_order_release);
    uint64_t known = failed_call();
    while ((known == 0 || failure.call < known) && !earliest().compare_exchange_weak(known, failure.call)) continue;
  }
  // The error of that call, once there is one.
  Failure failure() {
    const uint64_t call = failed_call();
    int rank = 0;
    while (record(rank).failed_call.load(std::memory_order_acquire) != call) ++rank;
    return {call, record(rank).kind, record(rank).sentence};
  }

 private:
  std::atomic<uint64_t>& earliest() { return *at<std::atomic<uint64_t>>(0); }
  template <class T>
  T* at(int64_t offset) {
    return reinterpret_cast<T*>(memory_.begin() + offset);
  }
  SharedMemory memory_;
};

// Reads another process's memory in one copy. False where the system does not allow it.
inline bool pull(int64_t process, uintptr_t from, char* to, int64_t bytes) {
  while (bytes > 0) {
    const iovec local = {to, static_cast<size_t>(bytes)},
                remote = {reinterpret_cast<void*>(from), static_cast<size_t>(bytes)};
    const ssize_t copied = process_vm_readv(static_cast<pid_t>(process), &local, 1, &remote, 1, 0);
    if (copied <= 0) return false;
    to += copied, from += copied, bytes -= copied;
  }
  return true;
}

// Whether a process has not ended; one that ended and was not yet waited for by its parent has.
inline bool alive(int64_t process) {
  if (kill(static_cast<pid_t>(process), 0) != 0 && errno == ESRCH) return false;
  FILE* file = fopen(("/proc/" + std::to_string(process) + "/stat").c_str(), "r");
  if (!file) return true;
  char state = 'R';
  const bool told = fscanf(file, "%*d (%*[^)]) %c", &state) == 1;
  fclose(file);
  return !told || (state != 'Z' && state != 'X');
}

}  // namespace pyhpc::allreduce

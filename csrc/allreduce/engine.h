// What a rank needs to play schedules with the other ranks: links to those on its node, messages to the rest, the table
// of allocated memory, patience, and the first error.
#pragma once
#include <sched.h>
#include <stdint.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "allreduce/network.h"
#include "allreduce/program.h"
#include "allreduce/reduce.h"
#include "allreduce/segment.h"

namespace pyhpc::allreduce {

// Both directions between this rank and another one of its node.
struct Link {
  int rank;         // of the other one, in the communicator
  int64_t process;  // its number, or 0 where it cannot be seen
  RingWriter out;
  RingReader in;
  char* out_slots;
  const char* in_slots;
  std::vector<uint64_t> slot_lines = {};  // the line that announced what a slot holds
  uint64_t staged = 0;                    // pieces ever
};

// Memory that ranks of the node allocated together; a descriptor names it by its number.
struct Area {
  int64_t number;
  char* begin;
  int64_t bytes;
};

// Of a message over the network the first part travels with a header, the rest in pieces of which a few are in flight.
constexpr int64_t opening_bytes = 8 << 10;
constexpr int most_flying = 4;

struct Move {  // an action in one strip, at work
  const Action* action;
  Link* link;         // none: over the network
  int64_t low, high;  // bytes of the vector
  int64_t posted;     // sent, or received, up to here
  int64_t done;       // the source may be overwritten, or the result is written, up to here
  const char* piece;  // what has been received and not yet written, up to `posted`
  bool opened, finished;
  bool landed;        // network: the oldest request is complete and what it received is not yet written
  int first, flying;  // network: the oldest of the requests, and their number
  uint64_t requests[most_flying];
};

struct Lent {  // a message without a copy, which its receiver may still be reading
  Link* link;
  uint64_t line;  // of its first piece
  int64_t low, high, piece_bytes;
  bool result;  // it lies in the result's memory

  int64_t returned() {  // up to here
    int64_t at = low;
    for (uint64_t piece = line; at < high && link->out.consumed(piece); ++piece) at += piece_bytes;
    return std::min(at, high);
  }
};

// Memory that grows, aligned to a cache line. Uninitialised: pages that are never used are never touched.
class Buffer {
 public:
  char* at_least(int64_t bytes) {
    if (bytes > bytes_) memory_.reset(new char[bytes + 64]), bytes_ = bytes;
    return reinterpret_cast<char*>(round_up(reinterpret_cast<int64_t>(memory_.get()), 64));
  }
  void abandon() { static_cast<void>(memory_.release()); }

 private:
  std::unique_ptr<char[]> memory_;
  int64_t bytes_ = 0;
};

class Engine {
 public:
  using Clock = std::chrono::steady_clock;

  Engine(int rank, int ranks, const Variant& variant) : rank(rank), ranks(ranks), variant(variant), links(ranks) {}
  // After a failure MPI may still be writing into the scratch memory.
  ~Engine() {
    if (failed_) scratch_.abandon();
  }

  // `members`: the ranks of this node, in the segment's order; `processes`: their numbers, 0 where not visible.
  void join(std::unique_ptr<Segment> shared, const std::vector<int>& members, const std::vector<int64_t>& processes) {
    segment = std::move(shared);
    int own = 0;
    while (members[own] != rank) ++own;
    for (int i = 0; i < static_cast<int>(members.size()); ++i) {
      if (i == own) continue;
      links[members[i]] = std::make_unique<Link>(Link{members[i], processes[i], RingWriter(segment->ring(own, i)),
                                                      RingReader(segment->ring(i, own)), segment->slots(own, i),
                                                      segment->slots(i, own)});
      links[members[i]]->slot_lines.assign(segment->layout.slots, uint64_t{0} - 1 - ring_lines);
    }
  }

  const Area* area_of(const char* memory, int64_t bytes) const {
    for (const Area& area : areas)
      if (area.begin <= memory && memory + bytes <= area.begin + area.bytes) return &area;
    return nullptr;
  }
  const Area& area(int64_t number) const {
    for (const Area& area : areas)
      if (area.number == number) return area;
    throw Error(ErrorKind::communication, "a rank sent from shared memory that this rank has released");
  }

  // Working memory of this engine; earlier content is lost when it grows.
  char* scratch(int64_t bytes) { return scratch_.at_least(bytes); }
  char* accumulators(int64_t bytes) { return accumulators_.at_least(bytes); }

  // Nothing moved. Spins for a while, then gives the core away; now and then looks for what ends the wait.
  template <class Waited>
  void idle(const Waited& waited) {
    if (++polls_ < spin) return relax();
    for (auto& link : links)
      if (link) link->in.publish();
    sched_yield();
    if (polls_ - spin >= next_look_) look_around(waited);
  }
  void moved() { polls_ = 0, next_look_ = 1; }

  // The first error, of this rank or of another one of its node, is the answer to every later call.
  void refuse_after_failure() {
    if (!failed_ && segment && segment->failure().set())
      failed_ = true, record(segment->failure().kind(), segment->failure().sentence());
    if (failed_) throw Error(failed_kind_, failed_sentence_);
  }
  void fail(ErrorKind kind, const std::string& sentence) {
    if (failed_) return;
    failed_ = true, record(kind, sentence);
    if (segment) segment->failure().publish(kind, sentence);
    if (!network.warned())
      for (int other = 0; other < ranks; ++other)
        if (other != rank && !links[other]) network.warn(other, sentence);
  }

  const int rank, ranks;
  const Variant& variant;
  std::vector<std::unique_ptr<Link>> links;  // by rank; none to ranks on other nodes and to itself
  std::unique_ptr<Segment> segment;          // none where a node has one rank
  Network network;
  std::vector<Area> areas;
  int64_t spin = 1000;  // polls before the core is given away
  double timeout_seconds = 300;
  void (*attend)() = nullptr;  // called now and then during a long wait; may throw
  uint32_t calls = 0;
  std::vector<Move> moves;  // working memory of a call
  std::vector<Lent> borrowed;

 private:
  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }

  void record(ErrorKind kind, const std::string& sentence) { failed_kind_ = kind, failed_sentence_ = sentence; }

  template <class Waited>
  void look_around(const Waited& waited) {
    const auto now = Clock::now();
    if (next_look_ == 1) began_ = looked_ = now;
    next_look_ = polls_ - spin + 64;
    refuse_after_failure();
    if (attend) attend();
    if (now - looked_ < std::chrono::milliseconds(100)) return;
    looked_ = now;
    network.listen();
    const std::pair<int, std::string> subject = waited();
    const int64_t process = links[subject.first] ? links[subject.first]->process : 0;
    const std::string who = "rank " + std::to_string(subject.first);
    const std::string what = "rank " + std::to_string(rank) + " waited for " + who + " " + subject.second;
    if (process && !alive(process))
      throw Error(ErrorKind::communication,
                  "all-reduce: " + who + " (process " + std::to_string(process) + ") has ended; " + what);
    const double seconds = std::chrono::duration<double>(now - began_).count();
    if (seconds > timeout_seconds)
      throw Error(ErrorKind::communication,
                  "all-reduce: no answer for " + std::to_string(static_cast<int64_t>(seconds)) + " s: " + what +
                      (process ? "; its process " + std::to_string(process) + " is alive" : std::string()) +
                      ". Did every rank call? PYHPC_ALLREDUCE_TIMEOUT is the limit in seconds");
  }

  Buffer scratch_, accumulators_;
  int64_t polls_ = 0, next_look_ = 1;
  Clock::time_point began_, looked_;
  bool failed_ = false;
  ErrorKind failed_kind_ = ErrorKind::invalid;
  std::string failed_sentence_;
};

}  // namespace pyhpc::allreduce

// What a rank needs to play schedules with the other ranks: links to those on its node, messages to the rest, the table
// of allocated memory, patience, and the first error.
//
// A wait that lasts is told in the rank's record, so that whoever runs out of patience can follow who waits for whom to
// the rank that waits for nobody: the one to name.
#pragma once
#include <sched.h>
#include <stdint.h>

#include <algorithm>
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
  int member;       // and in the segment
  int64_t process;  // its number, or 0 where it cannot be seen
  RingWriter out;
  RingReader in;
  char* out_slots;
  const char* in_slots;
  std::vector<uint64_t> slot_lines = {};  // the line that announced what a slot holds
  uint64_t staged = 0;                    // pieces ever
};

// The end of a chain of ranks, each of which waits for the next one.
struct Culprit {
  int rank;
  int64_t process;    // 0 where it cannot be seen
  bool ended;         // its process
  std::string state;  // what it does instead of answering
  std::string chain;  // ", which waits for rank 2, which ..."
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

struct Window {  // the arrays of another rank, in memory that the ranks share
  Link* link;
  const char* x;
  char* out;
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
    if (failure_) scratch_.abandon();
  }

  // `members`: the ranks of this node, in the segment's order; `processes`: their numbers, 0 where not visible.
  void join(std::unique_ptr<Segment> shared, const std::vector<int>& members, const std::vector<int64_t>& processes) {
    segment = std::move(shared);
    while (members[member] != rank) ++member;
    for (int i = 0; i < static_cast<int>(members.size()); ++i) {
      if (i == member) continue;
      links[members[i]] = std::make_unique<Link>(Link{members[i], i, processes[i], RingWriter(segment->ring(member, i)),
                                                      RingReader(segment->ring(i, member)), segment->slots(member, i),
                                                      segment->slots(i, member)});
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
  void moved() {
    polls_ = 0, next_look_ = 1;
    if (told_) told_ = false, suspect_ = -1, tell_waiting_for(-1);
  }
  void begin_call() {
    ++calls;
    if (segment) segment->record(member).call.store(calls, std::memory_order_relaxed);
  }

  // The first error, of this rank or of another one, is the answer to the call in which it happened and to every later
  // one. An earlier call, in which this rank may still be, goes on: a rank that is further has done its part of it.
  void refuse_after_failure(uint64_t call) {
    if (!failed_in(call) && segment && segment->failed_call() && segment->failed_call() <= call)
      failure_ = std::make_unique<Failure>(segment->failure());
    if (failed_in(call)) throw Error(failure_->kind, failure_->sentence);
  }
  bool failed() const { return failure_ != nullptr; }
  void fail(ErrorKind kind, const std::string& sentence) {
    if (failed_in(calls)) return;
    failure_ = std::make_unique<Failure>(Failure{calls, kind, sentence});
    if (segment) segment->publish(member, *failure_);
    for (int other = 0; other < ranks; ++other)
      if (other != rank && !links[other]) network.warn(other, *failure_);
  }

  // Whom to blame for a wait for rank `first`. A chain is followed within the node, to a rank that has ended at most:
  // what that one said it waited for no longer counts.
  Culprit culprit(int first) {
    std::vector<int> chain = {first};
    while (links[chain.back()] && !ended(*links[chain.back()])) {
      const RankRecord& next = segment->record(links[chain.back()]->member);
      const int other = next.waits_for.load(std::memory_order_relaxed) - 1;
      if (next.call.load(std::memory_order_relaxed) != calls || other < 0) break;
      const bool circle = other == rank || std::find(chain.begin(), chain.end(), other) != chain.end();
      chain.push_back(other);
      if (circle) break;
    }
    Culprit found = state_of(chain.back());
    for (size_t i = 1; i < chain.size(); ++i) found.chain += ", which waits for rank " + std::to_string(chain[i]);
    return found;
  }

  const int rank, ranks;
  int member = 0;  // this rank, in the segment
  const Variant& variant;
  std::vector<std::unique_ptr<Link>> links;  // by rank; none to ranks on other nodes and to itself
  std::unique_ptr<Segment> segment;          // none where a node has one rank
  Network network;
  std::vector<Area> areas;
  int64_t spin = 1000;  // polls before the core is given away
  double timeout_seconds = 300;
  void (*attend)() = nullptr;  // called now and then during a long wait; may throw
  uint64_t calls = 0;
  std::vector<Move> moves;  // working memory of a call
  std::vector<Lent> borrowed;
  std::vector<Window> windows;

 private:
  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }

  bool failed_in(uint64_t call) const { return failure_ && failure_->call <= call; }
  void tell_waiting_for(int other) {
    if (segment) segment->record(member).waits_for.store(other + 1, std::memory_order_relaxed);
  }

  static bool ended(const Link& link) { return link.process && !alive(link.process); }
  Culprit state_of(int other) {
    if (other == rank) return {rank, 0, false, "waits itself: a circle", ""};
    const Link* link = links[other].get();
    if (!link) return {other, 0, false, "is on another node, whose waits are not seen from here", ""};
    const RankRecord& record = segment->record(link->member);
    if (ended(*link)) return {other, link->process, true, "has ended", ""};
    const uint64_t call = record.call.load(std::memory_order_relaxed);
    const char* state = record.waits_for.load(std::memory_order_relaxed)
                            ? "waits itself: a circle"
                            : "called and waits for nobody: slow, or stopped";
    return {other, link->process, false,
            call < calls   ? "has not called"
            : call > calls ? "is in a later call"
                           : state,
            ""};
  }

  template <class Waited>
  void look_around(const Waited& waited) {
    const auto now = Clock::now();
    const bool first = next_look_ == 1;
    next_look_ = polls_ - spin + 64;
    refuse_after_failure(calls);
    if (attend) attend();
    if (first) began_ = looked_ = now;
    if (!first && now - looked_ < std::chrono::milliseconds(100)) return;
    const std::pair<int, const char*> subject = waited();
    told_ = true, tell_waiting_for(subject.first);
    if (first) return;
    looked_ = now;
    if (auto warning = network.listen()) {
      if (!failure_ || warning->call < failure_->call) failure_ = std::move(warning);
      refuse_after_failure(calls);
    }
    give_up(subject.first, subject.second, std::chrono::duration<double>(now - began_).count());
  }

  // Throws where there is nothing to wait for, or the time is up.
  void give_up(int other, const char* purpose, double seconds) {
    const Culprit culprit = this->culprit(other);
    // What a rank wrote just before it ended may have come since this one looked: it is suspected first, however late.
    const bool lost = culprit.ended && std::exchange(suspect_, culprit.rank) == culprit.rank;
    if (culprit.ended ? !lost : seconds <= timeout_seconds) return;
    const std::string process = culprit.process ? " (process " + std::to_string(culprit.process) + ")" : "";
    throw Error(
        ErrorKind::communication,
        "all-reduce: " + (lost ? "" : "no answer for " + std::to_string(static_cast<int64_t>(seconds)) + " s: ") +
            "rank " + std::to_string(culprit.rank) + process + " " + culprit.state + "; rank " + std::to_string(rank) +
            " waits for rank " + std::to_string(other) + " " + purpose + culprit.chain +
            (lost ? "" : ". PYHPC_ALLREDUCE_TIMEOUT is the limit in seconds"));
  }

  Buffer scratch_, accumulators_;
  int64_t polls_ = 0, next_look_ = 1;
  Clock::time_point began_, looked_;
  bool told_ = false;  // that this rank waits
  int suspect_ = -1;   // a rank that had ended at the last look
  std::unique_ptr<Failure> failure_;
};

}  // namespace pyhpc::allreduce

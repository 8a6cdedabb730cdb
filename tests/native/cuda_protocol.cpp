// Every order in which the sm90 matmul's blocks can act on their mbarriers, searched exhaustively
// (test_cuda_protocol.py).
//
// A state is what the hardware holds: for each block of the cluster its producer's and its consumers' positions, the
// barriers (arrivals missing, bytes missing, parity), which parts of a stage are on their way, and which k each part
// of each stage holds. A step is one action of one role, or the arrival of one part. A part may arrive at any time
// after it was asked for; a product reads its stage from its issue until its consumer has waited for it. Ring, and with
// it every parity, is the kernel's own (matmul/sm90_tiles.h).
#include <stdint.h>
#include <string.h>

#include <string>
#include <unordered_set>
#include <vector>

#include "matmul/sm90_tiles.h"

namespace {

using pyhpc::matmul::sm90_tiles::Ring;

constexpr int most_stages = 4, consumers = 2, most_blocks = 2, parts = 3;  // a, and the halves of b
enum Bug { none, no_empty_wait, early_release, own_consumers_only, wrong_parity, no_final_wait, no_expected_bytes };

struct Barrier {
  int8_t arrivals, bytes;
  uint8_t parity;
};

struct Consumer {
  uint8_t issued, finished, released, sent;  // products; blocks told of the product `released`
};

struct Block {
  uint8_t loaded, gone;
  Consumer consumer[consumers];
  Barrier full[most_stages], empty[most_stages];
  uint8_t holds[most_stages][parts];   // 1 + k, 0 nothing
  uint8_t coming[most_stages][parts];  // 1 + k of a part on its way to this block
};

struct State {
  Block block[most_blocks];
};

template <int stages>
struct Search {
  int blocks, products, bug;
  std::string fault;
  std::unordered_set<std::string> seen;
  std::vector<State> open;

  int part_count() const { return 1 + blocks; }
  int empty_arrivals() const { return consumers * (bug == own_consumers_only ? 1 : blocks); }

  static Ring<stages> ring_at(int k) {
    Ring<stages> ring;
    for (int i = 0; i < k; ++i) ring.advance();
    return ring;
  }

  static bool passed(const Barrier& barrier, uint32_t parity) { return barrier.parity != parity; }

  static void turn(Barrier& barrier, int arrivals) {
    if (barrier.arrivals || barrier.bytes) return;
    barrier.arrivals = static_cast<int8_t>(arrivals);
    barrier.parity ^= 1;
  }

  bool reads(const Block& block, int stage) const {
    for (const Consumer& consumer : block.consumer)
      for (int k = consumer.finished; k < consumer.issued; ++k)
        if (ring_at(k).stage == stage) return true;
    return false;
  }

  void add(const State& state) {
    if (seen.emplace(reinterpret_cast<const char*>(&state), sizeof state).second) open.push_back(state);
  }

  // The producer: wait for the stage, expect its parts, ask for a and a share of b for all blocks.
  void produce(State state, int number) {
    Block& block = state.block[number];
    if (block.loaded == products) return;
    const auto ring = ring_at(block.loaded);
    const uint32_t parity = bug == wrong_parity ? ring.parity : ring.parity ^ 1;
    if (bug != no_empty_wait && !passed(block.empty[ring.stage], parity)) return;
    Barrier& full = block.full[ring.stage];
    --full.arrivals;
    if (bug != no_expected_bytes) full.bytes = static_cast<int8_t>(full.bytes + part_count());
    turn(full, 1);
    for (int to = 0; to < blocks; ++to)
      for (int part = 0; part < part_count(); ++part) {
        if (part == 0 ? to != number : part - 1 != number) continue;
        uint8_t& coming = state.block[to].coming[ring.stage][part];
        if (coming) fault = "a stage is asked for twice";
        coming = static_cast<uint8_t>(block.loaded + 1);
      }
    ++block.loaded;
    add(state);
  }

  void deliver(State state, int number, int stage, int part) {
    Block& block = state.block[number];
    if (!block.coming[stage][part]) return;
    if (block.gone) fault = "a part arrives at a block that has left";
    if (reads(block, stage)) fault = "a stage is overwritten while it is read";
    block.holds[stage][part] = block.coming[stage][part];
    block.coming[stage][part] = 0;
    --block.full[stage].bytes;
    turn(block.full[stage], 1);
    add(state);
  }

  void issue(State state, int number, int which) {
    Block& block = state.block[number];
    Consumer& consumer = block.consumer[which];
    // Between two issues stand the wait for the product before and its release.
    if (consumer.issued == products || consumer.issued > consumer.released + 1) return;
    const auto ring = ring_at(consumer.issued);
    if (!passed(block.full[ring.stage], ring.parity)) return;
    for (int part = 0; part < part_count(); ++part)
      if (block.holds[ring.stage][part] != consumer.issued + 1) fault = "a stage is read that holds something else";
    ++consumer.issued;
    add(state);
  }

  // The wait for all products but the newest, or, at the end, for all.
  void finish(State state, int number, int which) {
    Consumer& consumer = state.block[number].consumer[which];
    const int due = consumer.issued == products ? products : consumer.issued - 1;
    if (consumer.finished >= due) return;
    ++consumer.finished;
    add(state);
  }

  void release(State state, int number, int which) {
    Consumer& consumer = state.block[number].consumer[which];
    const int free = bug == early_release ? consumer.issued : consumer.finished;
    if (consumer.released >= free) return;
    const int stage = ring_at(consumer.released).stage, peers = bug == own_consumers_only ? 1 : blocks;
    Block& to = state.block[bug == own_consumers_only ? number : consumer.sent];
    if (to.gone) fault = "a block that has left is told of a free stage";
    --to.empty[stage].arrivals;
    turn(to.empty[stage], empty_arrivals());
    if (++consumer.sent == peers) consumer.sent = 0, ++consumer.released;
    add(state);
  }

  static bool done(const Block& block, int products) {
    for (const Consumer& consumer : block.consumer)
      if (consumer.released != products) return false;
    return block.loaded == products;
  }

  void leave(State state, int number) {
    Block& block = state.block[number];
    if (block.gone || !done(block, products)) return;
    for (int i = 0; i < blocks && bug != no_final_wait; ++i)
      if (!done(state.block[i], products)) return;
    block.gone = 1;
    add(state);
  }

  void step(const State& state) {
    for (int number = 0; number < blocks; ++number) {
      produce(state, number);
      for (int stage = 0; stage < stages; ++stage)
        for (int part = 0; part < part_count(); ++part) deliver(state, number, stage, part);
      for (int which = 0; which < consumers; ++which) {
        issue(state, number, which);
        finish(state, number, which);
        release(state, number, which);
      }
      leave(state, number);
    }
  }

  bool all_gone(const State& state) const {
    for (int i = 0; i < blocks; ++i)
      if (!state.block[i].gone) return false;
    return true;
  }

  void run() {
    State first;
    memset(&first, 0, sizeof first);
    for (Block& block : first.block)
      for (int i = 0; i < stages; ++i)
        block.full[i].arrivals = 1, block.empty[i].arrivals = static_cast<int8_t>(empty_arrivals());
    add(first);
    while (fault.empty() && !open.empty()) {
      const State state = open.back();
      open.pop_back();
      const size_t before = seen.size();
      const size_t waiting = open.size();
      step(state);
      // No new state and none that was known: nobody can go on. A known one means that somebody could.
      if (seen.size() == before && open.size() == waiting && !all_gone(state) && !can_step(state))
        fault = "nobody can go on";
    }
  }

  bool can_step(const State& state) {
    Search probe = {blocks, products, bug, "", {}, {}};
    probe.step(state);
    return !probe.open.empty();
  }
};

std::string sentence;

template <int stages>
int64_t search(int blocks, int products, int bug) {
  Search<stages> search = {blocks, products, bug, "", {}, {}};
  search.run();
  sentence = search.fault;
  return static_cast<int64_t>(search.seen.size());
}

}  // namespace

extern "C" {

// The number of states met; `fault` then tells what went wrong, or "".
int64_t explore(int stages, int blocks, int products, int bug) {
  switch (stages) {
    case 1:
      return search<1>(blocks, products, bug);
    case 2:
      return search<2>(blocks, products, bug);
    case 3:
      return search<3>(blocks, products, bug);
    default:
      return search<4>(blocks, products, bug);
  }
}

const char* fault() { return sentence.c_str(); }
}

// A schedule as one rank plays it: a flat list of actions over bytes, in rounds, strip by strip.
//
// A strip is a piece of every chunk. A long vector is played strip by strip, each through all rounds, so that what one
// round writes is still in the cache when the next one sends it. Every element goes through the schedule's own
// expression whatever the strips are.
#pragma once
#include <stdint.h>

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace pyhpc::allreduce {

// Messages that are combined with each other before they meet the rank's own operand gather in an accumulator.
enum class Gather : int { none, opens, continues, closes };

struct Action {
  enum Kind : int { send, reduce, copy };
  Kind kind;
  int peer;
  int64_t low, high;  // bytes of the vector; of the whole chunk when there are several strips
  bool input;         // what is sent, or a reduction's own operand: the input, otherwise the result
  bool own_is_left;   // result = own op received, otherwise received op own
  Gather gather;      // of a reduction: accumulator = received; accumulator op received; that, and then the result
  int previous = -1;  // the action of the same round before this one with the same peer and direction
  int64_t accumulator = -1;  // where in the accumulators
};

// How the vector travels inside a node; decided by the engine's rule, the same on all ranks.
struct Choice {
  int64_t lines_bytes;  // messages up to this travel in the lines of the ring
  bool single_copy;     // longer ones: the receiver reads the sender's memory; otherwise they are staged in slots
  int64_t piece_bytes;  // a long message is sent in pieces of at most this; at most a slot where staged
  int64_t step_bytes;   // of every chunk in a strip
  int64_t strips;
  bool streaming_slots;    // slots are written past the caches
  bool streaming_results;  // and so are results
  int64_t network_bytes;   // a piece of a message between nodes
};

struct Round {
  int begin, end;       // actions
  int64_t accumulator;  // the one that was opened last
};

struct Program {
  std::vector<Action> actions;
  std::vector<Round> rounds;
  int64_t accumulators = 0;  // bytes

  void begin_round() {
    const int at = static_cast<int>(actions.size());
    rounds.push_back({at, at, -1});
  }
  // `step_bytes`: how much of a chunk is in a strip.
  void add(Action action, int64_t step_bytes) {
    Round& round = rounds.back();
    for (int i = round.begin; i < round.end; ++i) {
      const bool same_direction = (actions[i].kind == Action::send) == (action.kind == Action::send);
      if (same_direction && actions[i].peer == action.peer) action.previous = i - round.begin;
    }
    if (action.gather == Gather::opens) {
      round.accumulator = accumulators;
      accumulators += (std::min(action.high - action.low, step_bytes) + 63) / 64 * 64;
    }
    action.accumulator = round.accumulator;
    actions.push_back(action);
    ++round.end;
  }
  // Whether the strips of `choice` cover every action; one whose range is longer would be cut off in silence.
  bool covered_by(const Choice& choice) const {
    return choice.strips > 0 && choice.step_bytes > 0 &&
           std::all_of(actions.begin(), actions.end(), [&](const Action& a) {
             return a.high == a.low || (a.high - a.low - 1) / choice.step_bytes < choice.strips;
           });
  }
  int longest_round() const {
    int most = 0;
    for (const Round& round : rounds) most = std::max(most, round.end - round.begin);
    return most;
  }
};

}  // namespace pyhpc::allreduce

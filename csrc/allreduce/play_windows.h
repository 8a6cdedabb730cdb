// The part of a play in which the arrays of all ranks lie in memory that they share: one pass instead of two.
//
//     rank r, for each piece of its slice:  read the piece of every x, combine, write it into every out
//
// Each input is read once and each result written once, which is the least traffic that an all-reduce can have. The
// slices and the order of operands are those of the schedule `direct`. It is done in place of that one, and on two
// ranks of any other, where there is but one order, so that the bits do not tell where arrays lie.
//
// A rank whose two arrays are shared offers them in its first line to each other rank, and knows from the others' first
// lines whether all do; otherwise the schedule is played, and offers are passed over. A slice is read and written by
// its owner alone, so nobody waits before it writes, in place or not; a last line tells that a rank has written.
#pragma once
#include "allreduce/play.h"

namespace pyhpc::allreduce {

// Whether all ranks' arrays are shared; where they lie is then in `engine.windows`.
inline bool Play::meet() {
  const Offer mine = {Descriptor::offer, static_cast<int32_t>(x_area->number), static_cast<int32_t>(out_area->number),
                      x - x_area->begin, out - out_area->begin};
  for (auto& link : engine.links) {
    if (!link) continue;
    while (!link->out.room(1)) wait_for(link->rank, "to take a message");
    link->out.put(&mine, sizeof mine, signature);
  }
  bool all = true;
  engine.windows.clear();
  for (auto& link : engine.links) {
    if (!link) continue;
    await_line(*link);
    Offer theirs;
    memcpy(&theirs, link->in.data(0), sizeof theirs);
    if (theirs.how != Descriptor::offer) {
      all = false;
      continue;
    }
    link->in.consume(1), link->in.publish_sometimes();
    engine.windows.push_back({link.get(), engine.area(theirs.x_area).begin + theirs.x_offset,
                              engine.area(theirs.out_area).begin + theirs.out_offset});
  }
  return all;
}

inline void Play::await_line(Link& link) {
  for (Arrival arrival; (arrival = link.in.arrival(0, signature)) != Arrival::expected;) {
    if (arrival == Arrival::foreign) disagree(link.rank);
    wait_for(link.rank, "to send a message");
  }
  engine.moved();
}

inline void Play::combine_windows() {
  const std::vector<Action>& reductions = plan.windows.actions;
  const int64_t low = reductions[0].low, high = reductions[0].high;
  for (int64_t at = low; at < high; at += window_piece_bytes) {
    const int64_t bytes = std::min(window_piece_bytes, high - at);
    char* const to = choice.streaming_results ? scratch_memory : out + at;
    for (const Action& action : reductions) {
      const auto from = std::find_if(engine.windows.begin(), engine.windows.end(),
                                     [&](const Window& window) { return window.link->rank == action.peer; });
      combine(action, {action.input ? x + at : to, from->x + at, to, bytes, false}, accumulators + action.accumulator);
    }
    if (to != out + at) engine.variant.copy(out + at, to, bytes, true);
    for (const Window& window : engine.windows)
      engine.variant.copy(window.out + at, to, bytes, choice.streaming_results);
  }
  for (const Window& window : engine.windows) {
    while (!window.link->out.room(1)) wait_for(window.link->rank, "to take a message");
    window.link->out.put("", 0, signature);
  }
  for (const Window& window : engine.windows) {
    await_line(*window.link);
    window.link->in.consume(1), window.link->in.publish_sometimes();
  }
}

}  // namespace pyhpc::allreduce

// The part of a play in which the arrays of all ranks lie in memory that they share: one pass instead of two.
//
//     rank r, for each piece of its slice:  read the piece of every x, combine, write it into every out
//
// Each input is read once and each result written once, which is the least traffic that an all-reduce can have. The
// slice and the order of its operands are those of the schedule's first round (`direct`), so that the bits are its
// bits.
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
  const Action* const begin = &plan.program.actions[plan.program.rounds[0].begin];
  const Action* const end = &plan.program.actions[plan.program.rounds[0].end - 1] + 1;
  const auto reduces = [](const Action& action) { return action.kind == Action::reduce; };
  const Action& slice = *std::find_if(begin, end, reduces);
  const int64_t piece_bytes = std::min(window_piece_bytes, choice.step_bytes);  // the room in an accumulator
  for (int64_t at = slice.low; at < slice.high; at += piece_bytes) {
    const int64_t bytes = std::min(piece_bytes, slice.high - at);
    char* const to = choice.streaming_results ? scratch_memory : out + at;
    for (const Action* action = begin; action < end; ++action) {
      if (!reduces(*action)) continue;
      const auto from = std::find_if(engine.windows.begin(), engine.windows.end(),
                                     [&](const Window& window) { return window.link->rank == action->peer; });
      combine(*action, {action->input ? x + at : to, from->x + at, to, bytes, false},
              accumulators + action->accumulator);
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

// The part of a play that goes to other nodes, as MPI messages.
//
// A message opens with a header (signature, bytes) and its first 8 KiB in one MPI message; the rest follows in pieces
// straight from the sender's memory, a few in flight. The receiver posts receives for the rest only after it has
// checked the header, so that ranks that disagree never write into each other's results. A reduction of one piece
// overlaps the flight of the next ones.
#pragma once
#include "allreduce/play.h"

namespace pyhpc::allreduce {

struct Opening {
  uint64_t signature;
  int64_t bytes;  // of the whole message
};

namespace far_detail {

// The first part of a message: with the header.
inline int64_t opening_end(const Move& move) { return std::min(move.high, move.low + opening_bytes); }
inline uint64_t& newest(Move& move) { return move.requests[(move.first + move.flying) % most_flying]; }
inline void release(Move& move) { move.first = (move.first + 1) % most_flying, --move.flying; }

}  // namespace far_detail

inline bool Play::send_far(Move& move) {
  using namespace far_detail;
  const char* from = source(*move.action);
  const int peer = move.action->peer;
  bool progress = false;
  if (!move.opened) {
    const Opening opening = {signature, move.high - move.low};
    const int64_t bytes = opening_end(move) - move.low;
    memcpy(scratch(move), &opening, sizeof opening);
    memcpy(scratch(move) + sizeof opening, from + move.low, bytes);
    engine.network.send(scratch(move), static_cast<int64_t>(sizeof opening) + bytes, peer, newest(move));
    ++move.flying, move.opened = progress = true;
    move.done = move.posted = move.low + bytes;
  }
  // `done` is behind the opening at once, which was copied; then it follows the pieces that have left.
  for (; move.posted < move.high && move.flying < most_flying; progress = true) {
    const int64_t bytes = std::min(choice.network_bytes, move.high - move.posted);
    engine.network.send(from + move.posted, bytes, peer, newest(move));
    ++move.flying, move.posted += bytes;
  }
  for (; move.flying > 0 && engine.network.complete(move.requests[move.first], peer); progress = true) {
    if (move.piece) move.done = std::min(move.done + choice.network_bytes, move.high);
    move.piece = from;  // the opening has left
    release(move);
  }
  move.finished = move.posted == move.high && move.flying == 0;
  return progress;
}

// Receives the opening; true when it is there.
inline bool Play::open_far(Move& move) {
  using namespace far_detail;
  const int64_t expected = opening_end(move) - move.low;
  if (move.flying == 0) {
    engine.network.receive(scratch(move), static_cast<int64_t>(sizeof(Opening)) + opening_bytes, move.action->peer,
                           newest(move));
    ++move.flying;
  }
  int bytes = 0;
  if (!engine.network.complete(move.requests[move.first], move.action->peer, &bytes)) return false;
  release(move);
  Opening opening;
  memcpy(&opening, scratch(move), sizeof opening);
  if (opening.signature != signature || opening.bytes != move.high - move.low ||
      bytes != static_cast<int64_t>(sizeof opening) + expected)
    disagree(move.action->peer);
  move.opened = true;
  move.piece = scratch(move) + sizeof opening;  // written as soon as that is possible
  move.posted = move.low + expected;
  return true;
}

inline bool Play::receive_far(Move& move) {
  using namespace far_detail;
  if (!move.opened && !open_far(move)) return false;
  bool progress = false;
  if (move.piece) {
    const int64_t high = opening_end(move);
    if (!may_write(move, move.low, high)) return false;
    write(move, move.piece, high);
    move.piece = nullptr, progress = true;
  }
  const bool reduces = move.action->kind == Action::reduce;
  const int64_t slot_bytes = round_up(choice.network_bytes, 64);
  char* slots = scratch(move) + round_up(sizeof(Opening) + opening_bytes, 64);
  for (; move.posted < move.high && move.flying < most_flying; progress = true) {
    const int64_t bytes = std::min(choice.network_bytes, move.high - move.posted);
    if (!reduces && !may_write(move, move.posted, move.posted + bytes)) break;
    char* to = reduces ? slots + (move.first + move.flying) % most_flying * slot_bytes : out + move.posted;
    engine.network.receive(to, bytes, move.action->peer, newest(move));
    ++move.flying, move.posted += bytes;
  }
  while (move.flying > 0) {
    const int64_t high = std::min(move.done + choice.network_bytes, move.high);
    int bytes = 0;
    if (!move.landed) {
      if (!engine.network.complete(move.requests[move.first], move.action->peer, &bytes)) break;
      if (bytes != high - move.done) disagree(move.action->peer);
      move.landed = progress = true;
    }
    if (reduces && !may_write(move, move.done, high)) break;
    write(move, reduces ? slots + move.first * slot_bytes : out + move.done, high);
    move.landed = false, release(move), progress = true;
  }
  return progress;
}

}  // namespace pyhpc::allreduce

// Plays a schedule: one call of one all-reduce.
//
// All actions of a round are at work together: each is advanced by a piece as soon as that is possible, whatever
// carries it, until none is left. A receive writes a piece of the result only when no unfinished send of this rank
// still reads that memory and, where the schedule reduces one range from several ranks in a round, in the order of the
// actions. A piece that came without a copy and cannot be written yet is taken into scratch memory, so that its sender,
// which may wait for the same reason, is released: no two ranks ever wait for each other.
//
// Inside a node the sender alone chooses how a message longer than `lines_bytes` travels, piece by piece, and tells it
// in a line of the ring; the reader has done with the piece when it has consumed the line:
//   staging       the sender copied the piece into a slot of shared memory; it is reduced straight out of the slot
//   single copy   the reader copies the piece from the sender's private memory into scratch that fits the cache, or,
//                 where it is only to be copied, straight into its result
//   window        the piece lies in memory that the ranks allocated together and is read in place
// Where all arrays of all ranks lie in such memory, play_windows.h may take the place of all this.
#pragma once
#include <algorithm>
#include <vector>

#include "allreduce/engine.h"

namespace pyhpc::allreduce {

constexpr int64_t window_piece_bytes = 8 << 10;  // stays in the first-level cache between its reader and its writers

struct Plan {
  Program program;
  Program windows;  // one round, how this rank reduces its slice of arrays that all share, or none; see play_windows.h
  Choice choice;
  DType dtype;
  Operation operation;
  uint32_t signature;
  int64_t bytes;
  int64_t scratch_stride = 0;  // of one action at work
  int longest_round = 0;

  // Once program and choice are complete. `far`: there are ranks on other nodes.
  void measure(bool far) {
    longest_round = program.longest_round();
    scratch_stride = round_up(std::max({choice.piece_bytes, longest_in_lines, window_piece_bytes}), 64);
    if (far) scratch_stride += round_up(choice.network_bytes, 64) * most_flying + round_up(opening_bytes + 64, 64);
  }
};

struct Descriptor {  // of a piece
  enum How : int32_t { slot, remote, window, offer };
  int32_t how;
  int32_t area;  // of a window
  int64_t bytes;
  uint64_t where;  // offset in the pair's slots or in the area; address in the sender's process
};
static_assert(sizeof(Descriptor) <= line_bytes);

struct Offer {  // a rank's first line of a call: where its arrays lie, in memory that all ranks share
  int32_t how;  // Descriptor::offer
  int32_t x_area, out_area;
  int64_t x_offset, out_offset;
};
static_assert(sizeof(Offer) <= line_bytes);

class Play {
 public:
  Play(Engine& engine, const Plan& plan, const char* x, char* out)
      : engine(engine), plan(plan), choice(plan.choice), x(x), out(out) {
    engine.begin_call();
    signature = plan.signature ^ (static_cast<uint32_t>(engine.calls) * 0x9e3779b1u);
    scratch_memory = engine.scratch(plan.longest_round * plan.scratch_stride);
    accumulators = engine.accumulators(std::max(plan.program.accumulators, plan.windows.accumulators));
    borrowed.clear();
    if (!engine.areas.empty()) x_area = engine.area_of(x, plan.bytes), out_area = engine.area_of(out, plan.bytes);
  }

  void run() {
    if (engine.ranks == 1 && x != out) engine.variant.copy(out, x, plan.bytes, false);
    if (!plan.windows.actions.empty() && x_area && out_area && meet())
      combine_windows();
    else
      for (int64_t strip = 0; strip < choice.strips; ++strip)
        for (const Round& round : plan.program.rounds) play(round, strip);
    for (Lent& lent : borrowed)
      while (lent.returned() < lent.high) wait_for(lent.link->rank, "to read what was sent to it");
    engine.moved();
  }

 private:
  void play(const Round& round, int64_t strip);
  bool advance(Move& move);
  // sending inside the node
  bool send(Move& move);
  bool stage(Move& move);
  bool lend(Move& move, const Area* area);
  // receiving inside the node
  bool arrived(Move& move, uint64_t ahead);
  bool receive(Move& move);
  bool receive_lines(Move& move);
  void accept_piece(Move& move);
  // in memory that all ranks share
  bool meet();
  void await_line(Link& link);
  void combine_windows();
  // over the network
  bool send_far(Move& move);
  bool receive_far(Move& move);
  bool open_far(Move& move);

  const char* source(const Action& action) const { return action.input ? x : out; }
  bool in_result(const Action& action) const { return !action.input || x == out; }
  bool may_write(const Move& move, int64_t low, int64_t high);
  void write(Move& move, const char* received, int64_t high);
  void combine(const Action& action, Span span, char* sum);
  static void written(Move& move, int64_t high) { move.done = high, move.finished = high == move.high; }
  char* scratch(const Move& move) const { return scratch_memory + (&move - moves.data()) * plan.scratch_stride; }
  void wait_for(int rank, const char* purpose) {
    engine.idle([&] { return std::make_pair(rank, purpose); });
  }
  [[noreturn]] void disagree(int other) const {
    throw Error(ErrorKind::invalid, "all-reduce: rank " + std::to_string(engine.rank) + " and rank " +
                                        std::to_string(other) +
                                        " disagree: another number of elements, dtype, op or algorithm, or not as "
                                        "many all-reduces before this one");
  }

  Engine& engine;
  const Plan& plan;
  const Choice& choice;
  const char* const x;
  char* const out;
  uint32_t signature;
  char *scratch_memory, *accumulators;
  const Area *x_area = nullptr, *out_area = nullptr;
  std::vector<Move>& moves = engine.moves;
  std::vector<Lent>& borrowed = engine.borrowed;
};

inline void Play::play(const Round& round, int64_t strip) {
  moves.clear();
  for (int i = round.begin; i < round.end; ++i) {
    const Action& action = plan.program.actions[i];
    Move move;
    move.action = &action, move.link = engine.links[action.peer].get();
    move.low = std::min(action.low + strip * choice.step_bytes, action.high);
    move.high = choice.strips == 1 ? action.high : std::min(move.low + choice.step_bytes, action.high);
    move.posted = move.done = move.low;
    move.piece = nullptr, move.opened = move.finished = move.landed = false, move.first = move.flying = 0;
    moves.push_back(move);
  }
  for (size_t unfinished = moves.size(); unfinished > 0;) {
    bool progress = false;
    for (Move& move : moves)
      if (!move.finished && advance(move)) progress = true, unfinished -= move.finished;
    if (progress) {
      engine.moved();
      continue;
    }
    engine.idle([&] {
      const auto unfinished = [](const Move& m) { return !m.finished; };
      const auto receives = [](const Move& m) { return !m.finished && m.action->kind != Action::send; };
      // Rather one that waits for its peer than one that waits for this rank; later ones may wait for an earlier one.
      auto move = std::find_if(moves.begin(), moves.end(), receives);
      if (move == moves.end()) move = std::find_if(moves.begin(), moves.end(), unfinished);
      return std::make_pair(move->action->peer,
                            move->action->kind == Action::send ? "to take a message" : "to send a message");
    });
  }
}

inline bool Play::advance(Move& move) {
  const int previous = move.action->previous;
  if (previous >= 0 && !moves[previous].finished) return false;
  if (move.action->kind == Action::send) return move.link ? send(move) : send_far(move);
  return move.link ? receive(move) : receive_far(move);
}

inline bool Play::send(Move& move) {
  const int64_t bytes = move.high - move.low;
  if (bytes <= choice.lines_bytes) {
    if (!move.link->out.room(lines_of(bytes))) return false;
    move.link->out.put_message(source(*move.action) + move.low, bytes, signature);
    move.posted = move.done = move.high, move.finished = true;
    return true;
  }
  const Area* area = move.action->input ? x_area : out_area;
  return area || choice.single_copy ? lend(move, area) : stage(move);
}

inline bool Play::stage(Move& move) {
  Link& link = *move.link;
  const int64_t slots = static_cast<int64_t>(link.slot_lines.size()), slot = link.staged % slots;
  if (!link.out.consumed(link.slot_lines[slot]) || !link.out.room(1)) return false;
  const int64_t bytes = std::min(choice.piece_bytes, move.high - move.posted);
  const int64_t offset = slot * engine.segment->layout.slot_bytes;
  engine.variant.copy(link.out_slots + offset, source(*move.action) + move.posted, bytes, choice.streaming_slots);
  const Descriptor descriptor = {Descriptor::slot, 0, bytes, static_cast<uint64_t>(offset)};
  link.slot_lines[slot] = link.out.put(&descriptor, sizeof descriptor, signature);
  ++link.staged;
  move.done = move.posted += bytes;
  move.finished = move.posted == move.high;
  return true;
}

inline bool Play::lend(Move& move, const Area* area) {
  Link& link = *move.link;
  if (!move.opened) {
    borrowed.push_back({&link, link.out.next(), move.low, move.high, choice.piece_bytes, in_result(*move.action)});
    move.opened = true;
  }
  bool progress = false;
  for (; move.posted < move.high && link.out.room(1); progress = true) {
    const char* from = source(*move.action) + move.posted;
    const int64_t bytes = std::min(choice.piece_bytes, move.high - move.posted);
    Descriptor descriptor = {Descriptor::remote, 0, bytes, reinterpret_cast<uintptr_t>(from)};
    if (area)
      descriptor = {Descriptor::window, static_cast<int32_t>(area->number), bytes,
                    static_cast<uint64_t>(from - area->begin)};
    link.out.put(&descriptor, sizeof descriptor, signature);
    move.posted += bytes;
  }
  move.done = move.posted;
  move.finished = move.posted == move.high;
  return progress;
}

// Whether nothing of this rank still needs what `move` is to overwrite.
inline bool Play::may_write(const Move& move, int64_t low, int64_t high) {
  for (const Move& other : moves) {
    const Action& action = *other.action;
    const bool before = action.kind == Action::send ? in_result(action) : &other < &move;
    if (before && other.low < high && low < other.high && other.done < std::min(high, other.high)) return false;
  }
  for (Lent& lent : borrowed)
    if (lent.result && lent.low < high && low < lent.high && lent.returned() < std::min(high, lent.high)) return false;
  return true;
}

inline void Play::write(Move& move, const char* received, int64_t high) {
  const Action& action = *move.action;
  const int64_t low = move.done, bytes = high - low;
  if (action.kind == Action::copy) {
    if (received != out + low) engine.variant.copy(out + low, received, bytes, choice.streaming_results);
  } else if (bytes > 0) {
    combine(action, {source(action) + low, received, out + low, bytes, choice.streaming_results},
            accumulators + action.accumulator + (low - move.low));
  }
  written(move, high);
}

// One step of a reduction. The span: the rank's own operand, what was received, the result; `sum`: where messages
// gather.
inline void Play::combine(const Action& action, Span span, char* sum) {
  if (action.gather != Gather::none) {
    if (action.gather == Gather::opens)
      engine.variant.copy(sum, span.b, span.bytes, false);
    else
      engine.variant.reduce(plan.dtype, plan.operation, {sum, span.b, sum, span.bytes, false});
    if (action.gather != Gather::closes) return;
    span.b = sum;
  }
  if (!action.own_is_left) std::swap(span.a, span.b);
  engine.variant.reduce(plan.dtype, plan.operation, span);
}

inline bool Play::arrived(Move& move, uint64_t ahead) {
  const Arrival arrival = move.link->in.arrival(ahead, signature);
  if (arrival == Arrival::foreign) disagree(move.link->rank);
  return arrival == Arrival::expected;
}

inline bool Play::receive(Move& move) {
  if (move.high - move.low <= choice.lines_bytes) return receive_lines(move);
  if (!move.piece) {
    if (!arrived(move, 0)) return false;
    accept_piece(move);
    if (!move.piece) return true;
  }
  if (!may_write(move, move.done, move.posted)) return false;
  const bool in_scratch = move.piece == scratch(move);
  write(move, move.piece, move.posted);
  move.piece = nullptr;
  if (!in_scratch) move.link->in.consume(1), move.link->in.publish();
  return true;
}

// The lines are gathered as they come, so that little is left to do when the last one does.
inline bool Play::receive_lines(Move& move) {
  RingReader& in = move.link->in;
  const int64_t bytes = move.high - move.low;
  if (bytes <= line_bytes) {
    if (!arrived(move, 0) || !may_write(move, move.low, move.high)) return false;
    write(move, in.data(0), move.high);
    in.consume(1), in.publish_sometimes();
    move.finished = true;
    return true;
  }
  bool progress = false;
  for (; move.posted < move.high; progress = true) {
    const int64_t at = move.posted - move.low, part = std::min(line_bytes, bytes - at);
    if (!arrived(move, 0)) return progress;
    memcpy(scratch(move) + at, in.data(0), line_bytes);
    in.consume(1);
    move.posted += part;
  }
  in.publish_sometimes();
  if (!may_write(move, move.low, move.high)) return progress;
  write(move, scratch(move), move.high);
  return true;
}

// Takes the next piece's line: where the piece can be read is then in `move.piece`, or it has been written already.
inline void Play::accept_piece(Move& move) {
  Link& link = *move.link;
  Descriptor descriptor;
  memcpy(&descriptor, link.in.data(0), sizeof descriptor);
  if (descriptor.how == Descriptor::offer) return link.in.consume(1);  // this rank's arrays, or another's, are private
  const int64_t high = move.done + descriptor.bytes;
  if (descriptor.bytes <= 0 || descriptor.bytes > choice.piece_bytes || high > move.high) disagree(link.rank);
  move.posted = high;
  if (descriptor.how == Descriptor::slot) {
    move.piece = link.in_slots + descriptor.where;
    return;
  }
  const bool writable = may_write(move, move.done, high);
  const char* window =
      descriptor.how == Descriptor::window ? engine.area(descriptor.area).begin + descriptor.where : nullptr;
  if (window && writable) {
    move.piece = window;
    return;
  }
  const bool direct = !window && writable && move.action->kind == Action::copy;
  char* to = direct ? out + move.done : scratch(move);
  if (window)
    memcpy(to, window, descriptor.bytes);
  else if (!pull(link.process, descriptor.where, to, descriptor.bytes))
    throw Error(ErrorKind::communication,
                "all-reduce: rank " + std::to_string(link.rank) + " (process " + std::to_string(link.process) + ") " +
                    (errno == ESRCH ? "has ended" : std::string("cannot be read: ") + strerror(errno)) + "; rank " +
                    std::to_string(engine.rank) + " reads its memory");
  link.in.consume(1), link.in.publish();
  if (direct)
    write(move, to, high);
  else
    move.piece = to;
}

}  // namespace pyhpc::allreduce

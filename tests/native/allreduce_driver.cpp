// Runs the all-reduce engine with threads standing for ranks, without Python, and compares every element with exact
// integer sums: for ThreadSanitizer, and for processors that are emulated.
//   allreduce_driver RANKS WAY...   up to so many ranks; ways: lines staging single_copy window windows network mixed
//                                   disagree; a line each, or the first wrong element and exit status 1
// "windows" combines in one pass where all ranks' arrays are shared; in "half_windows" the last rank's are not.
// "network" puts every rank on a node of its own, joined by a small MPI that copies a message only when its receive is
// tested, so that memory that is overwritten or read too early shows; "mixed" has nodes of two ranks.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "allreduce/play.h"
#include "allreduce/play_far.h"
#include "allreduce/play_windows.h"

namespace pyhpc::allreduce {
extern const Variant generic;
}

namespace {

using namespace pyhpc;
using namespace pyhpc::allreduce;

// ---- a small MPI: the communicator's handle is the rank ----
struct Message {
  int from, to, tag;
  const void* data;
  int bytes;
  uint64_t sender;
};
struct Request {
  bool receives, done;
  Message wanted;
  void* to;
  int received;
};
std::mutex mpi_lock;
std::list<Message> mail;
std::vector<Request> requests;

int mpi_isend(const void* data, int bytes, uintptr_t, int to, int tag, uintptr_t rank, void* request) {
  const std::lock_guard<std::mutex> guard(mpi_lock);
  requests.push_back({false, false, {}, nullptr, 0});
  *static_cast<uint64_t*>(request) = requests.size();
  mail.push_back({static_cast<int>(rank), to, tag, data, bytes, requests.size()});
  return 0;
}
int mpi_irecv(void* to, int bytes, uintptr_t, int from, int tag, uintptr_t rank, void* request) {
  const std::lock_guard<std::mutex> guard(mpi_lock);
  requests.push_back({true, false, {from, static_cast<int>(rank), tag, nullptr, bytes, 0}, to, 0});
  *static_cast<uint64_t*>(request) = requests.size();
  return 0;
}
int mpi_test(void* request, int* done, void* status) {
  const std::lock_guard<std::mutex> guard(mpi_lock);
  Request& mine = requests[*static_cast<uint64_t*>(request) - 1];
  for (auto at = mail.begin(); mine.receives && !mine.done && at != mail.end(); ++at) {
    if (at->from != mine.wanted.from || at->to != mine.wanted.to || at->tag != mine.wanted.tag) continue;
    if (at->bytes > mine.wanted.bytes) return 15;  // truncated
    memcpy(mine.to, at->data, at->bytes);
    mine.done = requests[at->sender - 1].done = true, mine.received = at->bytes;
    mail.erase(at);
    break;
  }
  *done = mine.done;
  memcpy(status, &mine.received, sizeof mine.received);
  return 0;
}
int mpi_get_count(const void* status, uintptr_t, int* bytes) {
  memcpy(bytes, status, sizeof *bytes);
  return 0;
}
int mpi_iprobe(int, int tag, uintptr_t rank, int* found, void* status) {
  const std::lock_guard<std::mutex> guard(mpi_lock);
  *found = 0;
  for (const Message& message : mail)
    if (message.to == static_cast<int>(rank) && message.tag == tag)
      *found = 1, memcpy(status, &message.bytes, sizeof message.bytes);
  return 0;
}
int mpi_recv(void* to, int, uintptr_t, int, int tag, uintptr_t rank, void*) {
  const std::lock_guard<std::mutex> guard(mpi_lock);
  for (auto at = mail.begin(); at != mail.end(); ++at)
    if (at->to == static_cast<int>(rank) && at->tag == tag) {
      memcpy(to, at->data, at->bytes);
      mail.erase(at);
      return 0;
    }
  return 1;
}
template <class Function>
uintptr_t address(Function* function) {
  return reinterpret_cast<uintptr_t>(function);
}
Network network_of(int rank) {
  return Network({{"MPI_Isend", address(mpi_isend)},
                  {"MPI_Irecv", address(mpi_irecv)},
                  {"MPI_Recv", address(mpi_recv)},
                  {"MPI_Test", address(mpi_test)},
                  {"MPI_Iprobe", address(mpi_iprobe)},
                  {"MPI_Get_count", address(mpi_get_count)}},
                 rank, 0, -1);
}

// ---- schedules ----
using Rounds = std::vector<std::vector<Action>>;

// Chunk c is combined on rank c in one round: on the last rank all messages first, then its own operand; on the others
// its own operand and the messages one after the other. Then every rank copies it.
Rounds direct(int rank, int ranks, const std::vector<int64_t>& edges) {
  Rounds rounds(2);
  for (int k = 1; k < ranks; ++k) {
    const int peer = (rank + k) % ranks;
    const bool first = k == 1, last = k == ranks - 1, gathers = rank == ranks - 1 && ranks > 2;
    const Gather gather = !gathers ? Gather::none : first ? Gather::opens : last ? Gather::closes : Gather::continues;
    rounds[0].push_back({Action::send, peer, edges[peer], edges[peer + 1], true, false, Gather::none});
    rounds[1].push_back({Action::send, peer, edges[rank], edges[rank + 1], false, false, Gather::none});
    rounds[0].push_back({Action::reduce, peer, edges[rank], edges[rank + 1], gathers || first, !gathers, gather});
    rounds[1].push_back({Action::copy, peer, edges[peer], edges[peer + 1], false, false, Gather::none});
  }
  return rounds;
}

// Whole vectors are exchanged in both directions at once, so that what a rank sends is what it is about to overwrite.
Rounds doubling(int rank, int ranks, const std::vector<int64_t>& edges) {
  Rounds rounds;
  for (int distance = 1; distance < ranks; distance *= 2) {
    const int peer = rank ^ distance;
    rounds.push_back({{Action::send, peer, edges.front(), edges.back(), distance == 1, false, Gather::none},
                      {Action::reduce, peer, edges.front(), edges.back(), distance == 1, rank < peer, Gather::none}});
  }
  return rounds;
}

// ---- the check ----
struct Case {
  std::string way;
  int ranks, members;  // in a node
  bool in_place, doubles, streaming;
  int64_t elements;
};

int32_t element(int rank, int64_t i) { return static_cast<int32_t>((i * 7919 + rank * 104729) % 1000) - 500; }

Choice choice_of(const Case& test, int chunks) {
  const int64_t bytes = test.elements * 4, step = 20 * 64;
  const int64_t chunk = round_up((bytes + chunks - 1) / chunks, 64);
  const int64_t strips = test.members == test.ranks && chunks > 1 ? std::max<int64_t>(1, (chunk + step - 1) / step) : 1;
  const bool shares = test.way.find("window") != std::string::npos;
  const bool copies = test.way == "single_copy" || shares;
  return {test.way == "lines" ? longest_in_lines : 100,
          copies,
          1024,
          strips > 1 ? step : int64_t{1} << 62,
          strips,
          test.streaming,
          test.streaming,
          3000};
}

std::unique_ptr<Engine> engine_of(const Case& test, int rank, SharedMemory& segment, const SegmentLayout& layout) {
  auto engine = std::make_unique<Engine>(rank, test.ranks, generic);
  std::vector<int> members;
  for (int i = rank / test.members * test.members; i < test.ranks && i < (rank / test.members + 1) * test.members; ++i)
    members.push_back(i);
  SharedMemory view = SharedMemory::at(reinterpret_cast<uintptr_t>(segment.begin()), segment.bytes());
  if (members.size() > 1)
    engine->join(std::make_unique<Segment>(std::move(view), layout), members,
                 std::vector<int64_t>(members.size(), getpid()));
  engine->network = network_of(rank);
  engine->spin = 20, engine->timeout_seconds = 100;
  return engine;
}

// One rank: two calls, the second with the first one's result poisoned. An empty string, or what was wrong.
std::string run_rank(const Case& test, Engine& engine, char* window) {
  const int rank = engine.rank, chunks = test.doubles ? 1 : test.ranks;
  const int64_t bytes = test.elements * 4;
  std::vector<int64_t> edges;
  const int64_t chunk = round_up((bytes + chunks - 1) / chunks, 64);
  for (int i = 0; i <= chunks; ++i) edges.push_back(std::min(bytes, i * chunk));
  const Choice choice = choice_of(test, chunks);
  Plan plan;
  for (const auto& actions : test.doubles ? doubling(rank, test.ranks, edges) : direct(rank, test.ranks, edges)) {
    plan.program.begin_round();
    for (const Action& action : actions) plan.program.add(action, choice.step_bytes);
  }
  const bool meets =
      test.way.find("windows") != std::string::npos && chunks > 1 && edges.back() - edges.end()[-2] > 100;
  if (meets) {
    const Rounds rounds = direct(rank, test.ranks, edges);
    plan.windows.begin_round();
    for (const Action& action : rounds[0])
      if (action.kind == Action::reduce) plan.windows.add(action, window_piece_bytes);
  }
  const bool odd = test.way == "disagree" && rank == test.ranks - 1;
  plan.choice = choice, plan.dtype = DType::int32, plan.operation = Operation::sum;
  plan.signature = odd ? 8 : 7, plan.bytes = bytes;
  plan.measure(test.members < test.ranks);
  std::vector<int32_t> private_x(test.elements + 1), private_out(test.elements + 1);
  int32_t* x = window ? reinterpret_cast<int32_t*>(window) : private_x.data();
  int32_t* out = test.in_place ? x : window ? x + test.elements + 16 : private_out.data();
  for (int call = 0; call < 2; ++call) {
    for (int64_t i = 0; i < test.elements; ++i) out[i] = -77777;
    for (int64_t i = 0; i < test.elements; ++i) x[i] = element(rank + call, i);
    try {
      Play(engine, plan, reinterpret_cast<char*>(x), reinterpret_cast<char*>(out)).run();
    } catch (const Error& error) {
      engine.fail(error.kind, error.what());
      return error.what();
    }
    for (int64_t i = 0; i < test.elements; ++i) {
      int32_t sum = 0;
      for (int other = 0; other < test.ranks; ++other) sum += element(other + call, i);
      if (out[i] != sum || (!test.in_place && x[i] != element(rank + call, i)))
        return "element " + std::to_string(i) + " is " + std::to_string(out[i]) + ", not " + std::to_string(sum);
    }
  }
  return "";
}

bool right(const Case& test) {
  const SegmentLayout layout = {test.members, 1024, 3};
  std::vector<SharedMemory> segments;
  for (int node = 0; node * test.members < test.ranks; ++node) segments.push_back(SharedMemory::create(layout.bytes()));
  SharedMemory area = SharedMemory::create(test.ranks * (test.elements * 8 + 256) + 64);
  std::vector<std::unique_ptr<Engine>> engines;
  for (int rank = 0; rank < test.ranks; ++rank) {
    engines.push_back(engine_of(test, rank, segments[rank / test.members], layout));
    if (test.way.find("window") != std::string::npos) engines.back()->areas.push_back({1, area.begin(), area.bytes()});
  }
  std::vector<std::string> wrong(test.ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < test.ranks; ++rank)
    threads.emplace_back([&, rank] {
      const bool shares =
          test.way == "half_windows" ? rank + 1 < test.ranks : test.way.find("window") != std::string::npos;
      char* window = shares ? area.begin() + rank * round_up(test.elements * 8 + 128, 64) : nullptr;
      wrong[rank] = run_rank(test, *engines[rank], window);
    });
  for (std::thread& thread : threads) thread.join();
  mail.clear(), requests.clear();
  for (int rank = 0; rank < test.ranks; ++rank) {
    const bool expected =
        test.way == "disagree" ? wrong[rank].find("disagree") != std::string::npos : wrong[rank].empty();
    if (expected) continue;
    printf("%s, rank %d of %d (%d a node), %ld elements, %s, %s: %s\n", test.way.c_str(), rank, test.ranks,
           test.members, static_cast<long>(test.elements), test.in_place ? "in place" : "out of place",
           test.doubles ? "doubling" : "direct", wrong[rank].c_str());
    return false;
  }
  return true;
}

}  // namespace

int main(int count, char** ways) {
  for (int i = 2; i < count; ++i) {
    const std::string way = ways[i];
    for (int ranks = 1; ranks <= atoi(ways[1]); ++ranks)
      for (const int64_t elements : {0, 1, 13, 14, 15, 255, 257, 5000})
        for (int options = 0; options < 8; ++options) {
          const bool doubles = options & 2;
          if ((doubles && (ranks & (ranks - 1))) || (way == "disagree" && ranks == 1)) continue;
          const int members = way == "network" ? 1 : way == "mixed" ? std::min(2, ranks) : ranks;
          if (!right({way, ranks, members, (options & 1) != 0, doubles, (options & 4) != 0, elements})) return 1;
        }
    printf("%s right\n", way.c_str());
  }
  return 0;
}

// Plays an all-reduce schedule under SimGrid's SMPI and prints the simulated time of each vector size.
//
//   simulate_allreduce FILE seconds_per_message seconds_per_reduced_byte BYTES...
//
// FILE holds 32-bit integers: ranks, chunks, then ranks + 1 offsets (in actions), then the actions of all ranks, five
// integers each: round, kind (0 send, 1 receive to combine, 2 receive to copy), peer, first chunk, one past the last.
// In a round all sends and receives are started, then the receives are waited for in order, each followed by the time
// of its message and its reduction (injected: computation itself is not simulated), then the sends. Data are not looked
// at: all ranks share one folded buffer. Sizes begin at fixed simulated times, so that all ranks begin together.

#include <mpi.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

struct Action {
  int32_t round, kind, peer, first, last;
};

constexpr double kHostSpeed = 1e9;   // as the platform file says
constexpr double kSlotSeconds = 10;  // between the beginnings of two sizes

void fail(const char* what) {
  std::fprintf(stderr, "simulate_allreduce: %s\n", what);
  std::exit(1);
}

// The actions of this rank.
std::vector<Action> read(const char* name, int rank, int ranks, int32_t& chunks) {
  std::FILE* file = std::fopen(name, "rb");
  if (!file) fail("cannot open the schedule");
  int32_t head[2], offsets[2];
  if (std::fread(head, sizeof head, 1, file) != 1 || head[0] != ranks) fail("the schedule is for other ranks");
  chunks = head[1];
  std::fseek(file, sizeof(int32_t) * (2 + rank), SEEK_SET);
  if (std::fread(offsets, sizeof offsets, 1, file) != 1) fail("the schedule is cut short");
  std::vector<Action> actions(offsets[1] - offsets[0]);
  std::fseek(file, sizeof(int32_t) * (3 + ranks) + sizeof(Action) * offsets[0], SEEK_SET);
  if (std::fread(actions.data(), sizeof(Action), actions.size(), file) != actions.size())
    fail("the schedule is cut short");
  std::fclose(file);
  return actions;
}

// One all-reduce of `size` bytes.
void play(const std::vector<Action>& actions, int64_t size, int32_t chunks, char* buffer, const double* seconds) {
  const auto edge = [&](int32_t chunk) { return size * chunk / chunks; };
  for (size_t begin = 0; begin < actions.size();) {
    size_t end = begin;
    while (end < actions.size() && actions[end].round == actions[begin].round) ++end;
    std::vector<MPI_Request> requests(end - begin);
    for (size_t k = begin; k < end; ++k) {
      const Action& action = actions[k];
      const int bytes = static_cast<int>(edge(action.last) - edge(action.first));
      char* at = buffer + edge(action.first);
      if (action.kind == 0) {
        MPI_Isend(at, bytes, MPI_BYTE, action.peer, 0, MPI_COMM_WORLD, &requests[k - begin]);
      } else {
        MPI_Irecv(at, bytes, MPI_BYTE, action.peer, 0, MPI_COMM_WORLD, &requests[k - begin]);
      }
    }
    for (size_t k = begin; k < end; ++k) {
      if (actions[k].kind == 0) continue;
      MPI_Wait(&requests[k - begin], MPI_STATUS_IGNORE);
      const double bytes = static_cast<double>(edge(actions[k].last) - edge(actions[k].first));
      smpi_execute_flops((seconds[0] + (actions[k].kind == 1 ? bytes * seconds[1] : 0)) * kHostSpeed);
    }
    MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
    begin = end;
  }
}

}  // namespace

int main(int count, char** arguments) {
  MPI_Init(&count, &arguments);
  int rank, ranks;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  if (count < 5) fail("arguments are missing");
  const double seconds[2] = {std::atof(arguments[2]), std::atof(arguments[3])};
  int32_t chunks;
  const std::vector<Action> actions = read(arguments[1], rank, ranks, chunks);
  for (int k = 4; k < count; ++k) {
    const int64_t size = std::atoll(arguments[k]);
    char* buffer = static_cast<char*>(SMPI_SHARED_MALLOC(size + 1));
    const double begin = (k - 3) * kSlotSeconds;
    smpi_execute_flops((begin - MPI_Wtime()) * kHostSpeed);
    const double started = MPI_Wtime();
    play(actions, size, chunks, buffer, seconds);
    const double mine = MPI_Wtime() - started;
    double slowest;
    MPI_Reduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    if (rank == 0) std::printf("%lld %.12g\n", static_cast<long long>(size), slowest);
    SMPI_SHARED_FREE(buffer);
  }
  MPI_Finalize();
  return 0;
}

// MPI without its header: the few point-to-point functions that the engine calls, found by address in the library that
// mpi4py has loaded.
//
// What an MPI handle is differs between libraries: an int in MPICH, a pointer in Open MPI and in MPI 5's standard ABI.
// Handles are only passed by value here, and every calling convention of x86-64 and AArch64 passes an int or a pointer
// argument in one 64-bit register of which an int's callee reads the lower half, so a machine word serves all of them.
// A request is written by the library into memory: eight bytes that start as zero hold either kind. A status is opaque
// memory that is larger than any library's (mpi4py tells the size). int arguments and results are int everywhere.
#pragma once
#include <stdint.h>
#include <string.h>

#include <map>
#include <memory>
#include <string>

#include "allreduce/segment.h"
#include "core/error.h"

namespace pyhpc::allreduce {

class Network {
 public:
  static constexpr int data_tag = 2, warning_tag = 3;
  using Handle = uintptr_t;

  Network() = default;
  // Addresses by name ("MPI_Isend" ...), the communicator, MPI_BYTE, and the number that means any source.
  Network(const std::map<std::string, uintptr_t>& functions, Handle comm, Handle byte, int any_source)
      : comm_(comm), byte_(byte), any_source_(any_source), present_(true) {
    find(functions, "MPI_Isend", isend_), find(functions, "MPI_Irecv", irecv_), find(functions, "MPI_Test", test_);
    find(functions, "MPI_Recv", recv_), find(functions, "MPI_Iprobe", iprobe_);
    find(functions, "MPI_Get_count", get_count_);
  }

  void send(const void* data, int64_t bytes, int to, uint64_t& request, int tag = data_tag) const {
    request = 0;
    check(isend_(data, static_cast<int>(bytes), byte_, to, tag, comm_, &request), "MPI_Isend", to);
  }
  void receive(void* data, int64_t bytes, int from, uint64_t& request) const {
    request = 0;
    check(irecv_(data, static_cast<int>(bytes), byte_, from, data_tag, comm_, &request), "MPI_Irecv", from);
  }
  // Whether a request is complete; `bytes` is then what was received.
  bool complete(uint64_t& request, int peer, int* bytes = nullptr) const {
    int done = 0;
    Status status;
    check(test_(&request, &done, &status), "MPI_Test", peer);
    if (done && bytes) check(get_count_(&status, byte_, bytes), "MPI_Get_count", peer);
    return done;
  }

  // Tells a rank of another node of the error that ends this engine's use; the text and its request live on.
  void warn(int rank, const Failure& failure) {
    if (!present_) return;
    if (warning_.empty())
      warning_ = std::string(reinterpret_cast<const char*>(&failure.call), sizeof failure.call) + failure.sentence;
    uint64_t request = 0;  // never waited for: the receiver may be gone
    isend_(warning_.data(), static_cast<int>(warning_.size()), byte_, rank, warning_tag, comm_, &request);
  }
  // The error that a rank of another node has told of, or nothing.
  std::unique_ptr<Failure> listen() {
    if (!present_) return nullptr;
    int told = 0, bytes = 0;
    Status status;
    iprobe_(any_source_, warning_tag, comm_, &told, &status);
    if (!told) return nullptr;
    get_count_(&status, byte_, &bytes);
    std::string text(bytes, ' ');
    recv_(&text[0], bytes, byte_, any_source_, warning_tag, comm_, &status);
    auto failure = std::make_unique<Failure>(Failure{0, ErrorKind::communication, text.substr(sizeof(uint64_t))});
    memcpy(&failure->call, text.data(), sizeof failure->call);
    return failure;
  }

 private:
  struct alignas(16) Status {
    char opaque[256];
  };
  template <class Function>
  static void find(const std::map<std::string, uintptr_t>& functions, const char* name, Function& function) {
    function = reinterpret_cast<Function>(functions.at(name));
  }
  static void check(int code, const char* function, int peer) {
    if (code != 0)
      throw Error(ErrorKind::communication, std::string("all-reduce: ") + function + " with rank " +
                                                std::to_string(peer) + " failed with MPI error " +
                                                std::to_string(code));
  }

  int (*isend_)(const void*, int, Handle, int, int, Handle, void*) = nullptr;
  int (*irecv_)(void*, int, Handle, int, int, Handle, void*) = nullptr;
  int (*recv_)(void*, int, Handle, int, int, Handle, void*) = nullptr;
  int (*test_)(void*, int*, void*) = nullptr;
  int (*iprobe_)(int, int, Handle, int*, void*) = nullptr;
  int (*get_count_)(const void*, Handle, int*) = nullptr;
  Handle comm_ = 0, byte_ = 0;
  int any_source_ = 0;
  bool present_ = false;
  std::string warning_;
};

}  // namespace pyhpc::allreduce

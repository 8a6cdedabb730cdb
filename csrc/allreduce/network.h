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
#include <string>
#include <vector>

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

  // Tells a rank of another node of an error, once and for all; the text and its request live on.
  void warn(int rank, const std::string& sentence) {
    if (!present_) return;
    if (warning_.empty()) warning_ = sentence;
    uint64_t request = 0;  // never waited for: the receiver may be gone
    isend_(warning_.data(), static_cast<int>(warning_.size()), byte_, rank, warning_tag, comm_, &request);
  }
  bool warned() const { return warned_; }
  // Raises the error that a rank of another node has told of.
  void listen() {
    if (!present_) return;
    int told = 0, bytes = 0;
    Status status;
    iprobe_(any_source_, warning_tag, comm_, &told, &status);
    if (!told) return;
    get_count_(&status, byte_, &bytes);
    std::string sentence(bytes, ' ');
    recv_(&sentence[0], bytes, byte_, any_source_, warning_tag, comm_, &status);
    warned_ = true;
    throw Error(ErrorKind::communication, sentence);
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
  bool present_ = false, warned_ = false;
  std::string warning_;
};

}  // namespace pyhpc::allreduce

// Runs CUDA kernels on the CPU, for tests: every thread of a block is a fiber. Blocks run one after another, those of a
// cluster together.
//
// A warp runs until all its threads wait at a barrier, so a missing barrier makes it read what others have not written
// yet, or overwrite what they still need: the result is wrong, as it could be on a GPU. A barrier that some threads
// never reach is an error. `reverse_order` starts with the last thread, which uncovers the dependences that the first
// order hides. Dynamic shared memory is filled with NaN before each block. Warp-wide operations compute all 32 lanes at
// once from the definitions in the PTX manual, element by element, independently of the register maps that the kernels
// use (core/cuda_mma.h).
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __syncthreads() pyhpc::emulation::synchronize_block()

namespace pyhpc::emulation {

struct Index {
  unsigned x;
};

constexpr int lanes = 32, lane_bytes = 80, most_fibers = 8 * 384, most_blocks = 8, stack_bytes = 64 << 10,
              shared_limit = 227 << 10;

struct Barrier {
  int arrived;
  unsigned generation;
};

struct Fiber {
  jmp_buf state;
  ucontext_t start;
  unsigned char* stack;
  bool started, finished;
  bool (*ready)(const void* object, unsigned argument);  // what it waits for, or null
  const void* object;
  unsigned argument;
  bool can_run() const { return !finished && (!ready || ready(object, argument)); }
};

struct Warp {
  Barrier barrier;
  alignas(16) unsigned char in[lanes][lane_bytes], out[lanes][lane_bytes];
};

inline Index thread_index, block_index, block_size, grid_size;
inline unsigned current = 0, slot = 0;  // the running fiber; which block of its cluster it belongs to
inline unsigned blocks_at_once = 1;     // of a cluster
inline Fiber fibers[most_fibers];
inline Warp warps[most_fibers / lanes];
inline Barrier block_barriers[most_blocks];
inline jmp_buf scheduler;
inline void (*body)(void*);
inline void* body_arguments;
alignas(1024) inline unsigned char shared_bytes[most_blocks][shared_limit / 1024 * 1024];
inline bool reverse_order = false;
// Completes one asynchronous operation that nobody has waited for by name; false: there is none. Set by those who
// have such operations (core/cuda_hopper_emulation.h).
inline bool (*complete_one)() = nullptr;

// Back to the scheduler, until ready(object, argument).
__attribute__((noinline)) inline void wait_until(bool (*ready)(const void*, unsigned), const void* object,
                                                 unsigned argument) {
  Fiber& fiber = fibers[current];
  fiber.ready = ready, fiber.object = object, fiber.argument = argument;
  if (!_setjmp(fiber.state)) _longjmp(scheduler, 1);
}

inline bool has_turned(const void* barrier, unsigned generation) {
  return static_cast<const Barrier*>(barrier)->generation != generation;
}

// The last of `count` threads to arrive runs `action`; then all go on.
template <class Action>
void arrive(Barrier& barrier, int count, Action action) {
  if (++barrier.arrived == count) {
    action();
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  wait_until(has_turned, &barrier, barrier.generation);
}

inline void synchronize_block() {
  arrive(block_barriers[slot], static_cast<int>(block_size.x), [] {});
}

// compute(in, out) sees the arguments of all lanes and gives each its result. A lane of the next operation cannot
// overwrite `out` early: that operation computes only when every lane has arrived, so has taken its result.
template <class Out, class In, class Compute>
Out warp_operation(const In& argument, Compute compute) {
  static_assert(sizeof(In) <= lane_bytes && sizeof(Out) <= lane_bytes, "more than a lane can hand over");
  Warp& warp = warps[current / lanes];
  const unsigned lane = current % lanes;
  memcpy(warp.in[lane], &argument, sizeof argument);
  arrive(warp.barrier, lanes, [&] {
    In in[lanes];
    Out out[lanes];
    for (int i = 0; i < lanes; ++i) memcpy(&in[i], warp.in[i], sizeof(In));
    compute(in, out);
    for (int i = 0; i < lanes; ++i) memcpy(warp.out[i], &out[i], sizeof(Out));
  });
  Out result;
  memcpy(&result, warp.out[lane], sizeof result);
  return result;
}

inline void fiber_main() {
  body(body_arguments);
  fibers[current].finished = true;
  _longjmp(scheduler, 1);
}

inline void resume(unsigned number, unsigned first_block) {
  Fiber& fiber = fibers[number];
  current = number;
  slot = number / block_size.x;
  thread_index.x = number % block_size.x;
  block_index.x = first_block + slot;
  fiber.ready = nullptr;
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.state, 1);
  fiber.started = true;
  if (!fiber.stack) fiber.stack = static_cast<unsigned char*>(malloc(stack_bytes));
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack;
  fiber.start.uc_stack.ss_size = stack_bytes;
  makecontext(&fiber.start, fiber_main, 0);
  setcontext(&fiber.start);
}

// One warp after another, each as far as it can go; asynchronous work only when no thread can go on, so as late as
// possible. False: some threads wait for what never comes.
inline bool run_blocks(unsigned first_block, unsigned blocks) {
  memset(shared_bytes, 0xff, blocks * sizeof shared_bytes[0]);  // NaN in every floating-point type
  blocks_at_once = blocks;
  const unsigned threads = block_size.x * blocks;
  for (unsigned i = 0; i < threads; ++i) fibers[i].started = fibers[i].finished = false, fibers[i].ready = nullptr;
  const auto turn = [threads](unsigned i) { return reverse_order ? threads - 1 - i : i; };
  for (bool running = true; running; running = running || (complete_one && complete_one())) {
    running = false;
    for (unsigned warp = 0; warp < threads; warp += lanes)
      for (bool moved = true; moved; running |= moved) {
        moved = false;
        for (unsigned i = warp; i < warp + lanes; ++i)
          if (fibers[turn(i)].can_run()) resume(turn(i), first_block), moved = true;
      }
  }
  for (unsigned i = 0; i < threads; ++i)
    if (!fibers[i].finished) return false;
  return true;
}

inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

}  // namespace pyhpc::emulation

#define threadIdx pyhpc::emulation::thread_index
#define blockIdx pyhpc::emulation::block_index
#define blockDim pyhpc::emulation::block_size
#define gridDim pyhpc::emulation::grid_size

namespace pyhpc::cuda {

inline float to_float(Bfloat16 value) { return emulation::float_of_bits(static_cast<uint32_t>(value.bits) << 16); }

inline float to_float(Float16 value) {
  const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                     : exponent     ? ldexpf(static_cast<float>(1024 + fraction), exponent - 25)
                                    : ldexpf(static_cast<float>(fraction), -24);
  return value.bits >> 15 ? -size : size;
}

// To nearest, ties to even, as cvt.rn does.
inline void from_float(float value, Bfloat16& result) {
  const uint32_t bits = emulation::bits_of_float(value);
  result.bits = static_cast<uint16_t>(value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void from_float(float value, Float16& result) {
  const float size = fabsf(value);
  int exponent = 0;
  frexpf(size, &exponent);
  const int unit =
      size == 0 || exponent < -13 ? -24 : exponent - 11;  // the last fraction bit's weight, as a power of two
  // The units run on into the exponent: 2048 of them are 1024 of the next.
  int magnitude = 0x7c00;
  if (value != value)
    magnitude = 0x7fff;
  else if (size < 65520)
    magnitude = static_cast<int>(nearbyintf(ldexpf(size, -unit))) + (unit + 24) * 1024;
  result.bits = static_cast<uint16_t>(magnitude | (signbit(value) && value == value ? 0x8000 : 0));
}

inline int32_t dot_bytes(int32_t a, int32_t b, int32_t c) {
  uint32_t sum = static_cast<uint32_t>(c);
  for (int shift = 0; shift < 32; shift += 8) sum += static_cast<int8_t>(a >> shift) * static_cast<int8_t>(b >> shift);
  return static_cast<int32_t>(sum);
}

template <class T>
T exchange_xor(T value, int lane_mask) {
  return emulation::warp_operation<T>(value, [lane_mask](const T* in, T* out) {
    for (int lane = 0; lane < emulation::lanes; ++lane) out[lane] = in[lane ^ lane_mask];
  });
}

inline void synchronize_warp() { exchange_xor(0, 0); }
inline int emulated_multiprocessors = 4;
inline uint32_t multiprocessor_number() {
  return emulation::block_index.x % static_cast<unsigned>(emulated_multiprocessors);
}
inline unsigned char* shared_memory() { return emulation::shared_bytes[emulation::slot]; }

// Blocks run in clusters of `cluster`, one cluster after another.
template <class... Parameters>
int launch_clusters(void (*kernel)(Parameters...), int64_t blocks, int cluster, int threads, size_t shared_bytes,
                    uintptr_t, Parameters... arguments) {
  if (blocks > 0x7fffffff || blocks < 1 || blocks % cluster || threads % emulation::lanes ||
      shared_bytes > sizeof emulation::shared_bytes[0] || cluster > emulation::most_blocks ||
      threads * cluster > emulation::most_fibers)
    return 1;
  auto call = [&] { kernel(arguments...); };
  emulation::body = [](void* context) { (*static_cast<decltype(call)*>(context))(); };
  emulation::body_arguments = &call;
  emulation::grid_size.x = static_cast<unsigned>(blocks);
  emulation::block_size.x = static_cast<unsigned>(threads);
  bool finished = true;
  for (int64_t block = 0; finished && block < blocks; block += cluster)
    finished = emulation::run_blocks(static_cast<unsigned>(block), static_cast<unsigned>(cluster));
  emulation::body_arguments = nullptr;
  return finished ? 0 : 2;
}

template <class... Parameters>
int launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes, uintptr_t stream,
           Parameters... arguments) {
  return launch_clusters(kernel, blocks, 1, threads, shared_bytes, stream, arguments...);
}

}  // namespace pyhpc::cuda

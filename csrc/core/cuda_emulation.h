// Runs CUDA kernels on the CPU, for tests: every thread of a block is a fiber, blocks run one after another.
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

constexpr int lanes = 32, most_threads = 1024, stack_bytes = 64 << 10, shared_limit = 227 << 10;

struct Barrier {
  int arrived;
  unsigned generation;
};

struct Fiber {
  jmp_buf state;
  ucontext_t start;
  unsigned char* stack;
  bool started, finished;
  const Barrier* waits;  // until its generation is no longer this one
  unsigned generation;
  bool can_run() const { return !finished && !(waits && waits->generation == generation); }
};

struct Warp {
  Barrier barrier;
  alignas(16) unsigned char in[lanes][64], out[lanes][64];
};

inline Index thread_index, block_index, block_size, grid_size;
inline Fiber fibers[most_threads];
inline Warp warps[most_threads / lanes];
inline Barrier block_barrier;
inline jmp_buf scheduler;
inline void (*body)(void*);
inline void* body_arguments;
alignas(128) inline unsigned char shared_bytes[shared_limit];
inline bool reverse_order = false;

// Back to the scheduler, until it is this thread's turn again.
__attribute__((noinline)) inline void yield() {
  if (!_setjmp(fibers[thread_index.x].state)) _longjmp(scheduler, 1);
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
  Fiber& fiber = fibers[thread_index.x];
  fiber.waits = &barrier, fiber.generation = barrier.generation;
  yield();
}

inline void synchronize_block() {
  arrive(block_barrier, static_cast<int>(block_size.x), [] {});
}

// compute(in, out) sees the arguments of all lanes and gives each its result. A lane of the next operation cannot
// overwrite `out` early: that operation computes only when every lane has arrived, so has taken its result.
template <class Out, class In, class Compute>
Out warp_operation(const In& argument, Compute compute) {
  static_assert(sizeof(In) <= 64 && sizeof(Out) <= 64, "a lane has 64 bytes each way");
  Warp& warp = warps[thread_index.x / lanes];
  const unsigned lane = thread_index.x % lanes;
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
  fibers[thread_index.x].finished = true;
  _longjmp(scheduler, 1);
}

inline void resume(unsigned thread) {
  Fiber& fiber = fibers[thread];
  thread_index.x = thread;
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

// One warp after another, each as far as it can go. False: some threads wait for others that have left.
inline bool run_block(unsigned block) {
  block_index.x = block;
  memset(shared_bytes, 0xff, sizeof shared_bytes);  // NaN in every floating-point type
  const unsigned threads = block_size.x;
  for (unsigned thread = 0; thread < threads; ++thread)
    fibers[thread].started = fibers[thread].finished = false, fibers[thread].waits = nullptr;
  const auto turn = [threads](unsigned i) { return reverse_order ? threads - 1 - i : i; };
  for (bool running = true; running;) {
    running = false;
    for (unsigned warp = 0; warp < threads; warp += lanes)
      for (bool moved = true; moved; running |= moved) {
        moved = false;
        for (unsigned i = warp; i < warp + lanes; ++i)
          if (fibers[turn(i)].can_run()) resume(turn(i)), moved = true;
      }
  }
  for (unsigned thread = 0; thread < threads; ++thread)
    if (!fibers[thread].finished) return false;
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

inline float exchange_xor(float value, int lane_mask) {
  return emulation::warp_operation<float>(value, [lane_mask](const float* in, float* out) {
    for (int lane = 0; lane < emulation::lanes; ++lane) out[lane] = in[lane ^ lane_mask];
  });
}

inline void synchronize_warp() { exchange_xor(0, 0); }
inline unsigned char* shared_memory() { return emulation::shared_bytes; }

template <class... Parameters>
int launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes, uintptr_t,
           Parameters... arguments) {
  if (blocks > 0x7fffffff || blocks < 1 || threads % emulation::lanes || shared_bytes > emulation::shared_limit)
    return 1;
  auto call = [&] { kernel(arguments...); };
  emulation::body = [](void* context) { (*static_cast<decltype(call)*>(context))(); };
  emulation::body_arguments = &call;
  emulation::grid_size.x = static_cast<unsigned>(blocks);
  emulation::block_size.x = static_cast<unsigned>(threads);
  bool finished = true;
  for (int64_t block = 0; finished && block < blocks; ++block)
    finished = emulation::run_block(static_cast<unsigned>(block));
  emulation::body_arguments = nullptr;
  return finished ? 0 : 2;
}

}  // namespace pyhpc::cuda

// Runs CUDA kernels on the CPU, for tests: every thread of a block is a fiber, blocks run one after another.
//
// A barrier switches to the next fiber until all have arrived, so a missing barrier makes a fiber read what others have not
// written yet, or overwrite what they still need: the result is wrong, as it could be on a GPU. `reverse_order` starts with
// the last thread, which uncovers the dependences that the first order hides. Shared memory is filled with NaN before
// each block. Warp-wide operations compute all 32 lanes at once from the definitions in the PTX manual, element by element,
// independently of the register maps that the kernels use (core/cuda_mma.h).
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

struct Fiber {
  jmp_buf state;
  ucontext_t start;
  unsigned char* stack;
  bool started, finished;
};

struct Barrier {
  int arrived;
  unsigned generation;
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
  const unsigned generation = barrier.generation;
  if (++barrier.arrived == count) {
    action();
    barrier.arrived = 0;
    ++barrier.generation;
  }
  while (barrier.generation == generation) yield();
}

inline void synchronize_block() {
  arrive(block_barrier, static_cast<int>(block_size.x), [] {});
}

// compute(in, out) sees the arguments of all lanes and gives each its result. A lane of the next operation cannot overwrite
// `out` early: that operation computes only when every lane has arrived, so has taken its result.
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

inline void run_block(unsigned block) {
  block_index.x = block;
  memset(shared_bytes, 0xff, sizeof shared_bytes);  // NaN in every floating-point type
  for (unsigned thread = 0; thread < block_size.x; ++thread) fibers[thread].started = fibers[thread].finished = false;
  for (bool running = true; running;) {
    running = false;
    for (unsigned turn = 0; turn < block_size.x; ++turn) {
      const unsigned thread = reverse_order ? block_size.x - 1 - turn : turn;
      if (fibers[thread].finished) continue;
      resume(thread);
      running = true;
    }
  }
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
  const int unit = exponent < -13 ? -24 : exponent - 11;  // the last fraction bit's weight, as a power of two
  const int units = size == 0 || size >= 65520 ? 0 : static_cast<int>(nearbyintf(ldexpf(size, -unit)));
  const int magnitude = value != value ? 0x7fff : size >= 65520 ? 0x7c00 : units + (unit + 24) * 1024;
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
  if (blocks > 0x7fffffff || blocks < 1 || threads % emulation::lanes || shared_bytes > emulation::shared_limit) return 1;
  auto call = [&] { kernel(arguments...); };
  emulation::body = [](void* context) { (*static_cast<decltype(call)*>(context))(); };
  emulation::body_arguments = &call;
  emulation::grid_size.x = static_cast<unsigned>(blocks);
  emulation::block_size.x = static_cast<unsigned>(threads);
  for (int64_t block = 0; block < blocks; ++block) emulation::run_block(static_cast<unsigned>(block));
  emulation::body_arguments = nullptr;
  return 0;
}

}  // namespace pyhpc::cuda

// Hopper's instructions on the CPU, for tests (core/cuda_emulation.h): mbarriers with phases and transaction counts,
// clusters, the tensor copy engine, written from the definitions in the PTX manual.
//
// Asynchronous work is done at one of the two ends of the time it may take. In the first order at once: a read that
// comes too early finds what was there before its turn. In reverse order as late as possible, the newest first: when
// the thread that asked waits for it, or when no thread can go on. What is read or overwritten too early is then wrong.
#pragma once

namespace pyhpc::emulation {

// A tensor of three dimensions as encode_tensor() describes it; lies in TensorMap::opaque.
struct Tensor {
  unsigned char* data;
  int itemsize;
  int64_t size[3], stride[2];  // strides in bytes, of y and z
  int box[2];                  // lines of 128 bytes
};

// 8 bytes in shared memory.
struct MbarrierState {
  uint8_t arrivals, pending;
  uint16_t phase;
  int32_t bytes;  // expected and not delivered; below 0 if delivered before they are expected

  void turn_if_complete() {
    if (pending == 0 && bytes == 0) ++phase, pending = arrivals;
  }
};
static_assert(sizeof(MbarrierState) == 8, "as large as the real one");

struct BoxCopy {
  Tensor tensor;
  int x, y, z;
  uint32_t shared, barrier;
  unsigned ranks;  // blocks that receive, a bit each
  unsigned slot, fiber;
  bool store, committed;
};

constexpr int most_copies = 256;
inline BoxCopy copies[most_copies];
inline int copy_count = 0;
inline Barrier cluster_barrier, named_barriers[most_blocks][16];

inline MbarrierState& mbarrier_at(unsigned block, uint32_t address) {
  return *reinterpret_cast<MbarrierState*>(shared_bytes[block] + address);
}

// 16-byte chunk c of 128-byte line i lies at chunk c ^ (i mod 8): bits 4-6 of the address and bits 7-9.
inline uint32_t swizzle_128(uint32_t address) { return address ^ ((address & 0x380) >> 3); }

// One 16-byte chunk of a line of the box: what lies inside the tensor is moved, the rest is read as zero.
inline void move_chunk(const BoxCopy& copy, unsigned block, int line, int chunk) {
  const Tensor& tensor = copy.tensor;
  const int64_t per_chunk = 16 / tensor.itemsize, x = copy.x + chunk * per_chunk, y = copy.y + line;
  unsigned char* const shared =
      shared_bytes[block] + swizzle_128(copy.shared + static_cast<uint32_t>(line * 128 + chunk * 16));
  const bool inside = y < tensor.size[1] && copy.z < tensor.size[2] && x < tensor.size[0];
  const int64_t count = !inside ? 0 : tensor.size[0] - x < per_chunk ? tensor.size[0] - x : per_chunk;
  const size_t bytes = static_cast<size_t>(count * tensor.itemsize);
  const auto memory = [&] {
    return tensor.data + x * tensor.itemsize + y * tensor.stride[0] + copy.z * tensor.stride[1];
  };
  if (!copy.store) memset(shared, 0, 16);
  if (count && copy.store) memcpy(memory(), shared, bytes);
  if (count && !copy.store) memcpy(shared, memory(), bytes);
}

inline void perform(const BoxCopy& copy) {
  const Tensor& tensor = copy.tensor;
  for (unsigned block = 0; block < most_blocks; ++block) {
    if (!(copy.ranks >> block & 1)) continue;
    for (int line = 0; line < tensor.box[1]; ++line)
      for (int chunk = 0; chunk < 8; ++chunk) move_chunk(copy, block, line, chunk);
    if (copy.store) continue;
    MbarrierState& barrier = mbarrier_at(block, copy.barrier);
    barrier.bytes -= tensor.box[0] * tensor.box[1] * tensor.itemsize;
    barrier.turn_if_complete();
  }
}

inline void perform_and_forget(int i) {
  const BoxCopy copy = copies[i];
  --copy_count;
  for (; i < copy_count; ++i) copies[i] = copies[i + 1];
  perform(copy);
}

inline bool complete_newest_copy() {
  if (copy_count == 0) return false;
  perform_and_forget(copy_count - 1);
  return true;
}

inline void start(const BoxCopy& copy) {
  complete_one = complete_newest_copy;
  if (!reverse_order || copy_count == most_copies) return perform(copy);
  copies[copy_count++] = copy;
}

// The stores of the running thread that are in committed groups, but for the newest `left`. One store makes a group.
inline void complete_stores(int left) {
  int own = 0;
  for (int i = 0; i < copy_count; ++i) own += copies[i].store && copies[i].committed && copies[i].fiber == current;
  for (int i = 0; i < copy_count && own > left;)
    if (copies[i].store && copies[i].committed && copies[i].fiber == current)
      perform_and_forget(i), --own;
    else
      ++i;
}

inline Tensor tensor_of(const cuda::TensorMap& map) {
  Tensor tensor;
  memcpy(&tensor, map.opaque, sizeof tensor);
  return tensor;
}

inline bool has_other_parity(const void* barrier, unsigned parity) {
  return (static_cast<const MbarrierState*>(barrier)->phase & 1u) != parity;
}

}  // namespace pyhpc::emulation

#define __grid_constant__

namespace pyhpc::cuda {

inline uint32_t address_of(const void* shared) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(shared) - shared_memory());
}

inline int cluster_rank() { return static_cast<int>(emulation::slot); }

inline void synchronize_cluster() {
  emulation::arrive(emulation::cluster_barrier,
                    static_cast<int>(emulation::block_size.x) * static_cast<int>(emulation::blocks_at_once), [] {});
}

template <class T>
T load_of_rank(uint32_t address, int rank) {
  T value;
  memcpy(&value, emulation::shared_bytes[rank] + address, sizeof value);
  return value;
}

template <class... Values>
void store_shared(uint32_t address, Values... values) {
  for (const auto value : {values...}) {
    memcpy(shared_memory() + address, &value, sizeof value);
    address += sizeof value;
  }
}

inline void synchronize_named(int barrier, int threads) {
  emulation::arrive(emulation::named_barriers[emulation::slot][barrier], threads, [] {});
}

inline void mbarrier_init(uint32_t barrier, int arrivals) {
  emulation::mbarrier_at(emulation::slot, barrier) = {static_cast<uint8_t>(arrivals), static_cast<uint8_t>(arrivals), 0,
                                                      0};
}
inline void fence_mbarrier_init() {}

inline void mbarrier_arrive_expect(uint32_t barrier, int bytes) {
  emulation::MbarrierState& state = emulation::mbarrier_at(emulation::slot, barrier);
  state.bytes += bytes, --state.pending;
  state.turn_if_complete();
}

inline void mbarrier_arrive_at(uint32_t barrier, int rank) {
  emulation::MbarrierState& state = emulation::mbarrier_at(static_cast<unsigned>(rank), barrier);
  --state.pending;
  state.turn_if_complete();
}

inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  const void* state = &emulation::mbarrier_at(emulation::slot, barrier);
  if (!emulation::has_other_parity(state, parity)) emulation::wait_until(emulation::has_other_parity, state, parity);
}

inline void prefetch(const TensorMap&) {}

inline void load_box(const TensorMap& map, uint32_t to, uint32_t barrier, Corner corner, uint16_t ranks) {
  emulation::start({emulation::tensor_of(map), corner.x, corner.y, corner.z, to, barrier, ranks, emulation::slot,
                    emulation::current, false, false});
}
inline void load_box(const TensorMap& map, uint32_t to, uint32_t barrier, Corner corner) {
  load_box(map, to, barrier, corner, static_cast<uint16_t>(1 << emulation::slot));
}
inline void store_box(const TensorMap& map, uint32_t from, Corner corner) {
  emulation::start({emulation::tensor_of(map), corner.x, corner.y, corner.z, from, 0, 1u << emulation::slot,
                    emulation::slot, emulation::current, true, false});
}
inline void commit_stores() {
  for (int i = 0; i < emulation::copy_count; ++i)
    if (emulation::copies[i].fiber == emulation::current) emulation::copies[i].committed = true;
}
template <int left>
void wait_stores_read() {
  emulation::complete_stores(left);
}
inline void wait_stores() { emulation::complete_stores(0); }
inline void fence_shared_for_async() {}
template <int>
void keep_registers() {}
template <int>
void take_registers() {}

inline uint64_t emulated_clock = 0;  // advances when it is read; half as many cycles as nanoseconds
inline uint64_t read_clock() { return (emulated_clock += 2) / 2; }
inline uint64_t read_nanoseconds() { return emulated_clock; }
inline int count_multiprocessors(int& count) {
  count = emulated_multiprocessors;
  return 0;
}

}  // namespace pyhpc::cuda

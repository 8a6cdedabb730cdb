// wgmma on the CPU, for tests: the operands are read from shared memory as the PTX manual says of a descriptor ("Matrix
// descriptor", "Strides"), element by element, and the result is placed as its figures show ("Register fragments").
// Like the copies (core/cuda_hopper_emulation.h) a product is made at once, or, in reverse order, when it is waited
// for.
#pragma once

namespace pyhpc::emulation {

struct WarpgroupProduct {
  void* d[128];
  uint64_t a, b;
  bool add;
  unsigned block;
  int group;
  void (*perform)(const WarpgroupProduct&);
};

constexpr int most_products = 64;

struct Warpgroup {
  Barrier barrier;
  void* d[128];
  WarpgroupProduct products[most_products];
  int count, group;  // products not yet made; groups committed
};
inline Warpgroup warpgroups[most_fibers / 128];

inline Warpgroup& own_warpgroup() { return warpgroups[current / 128]; }

// Element (mn, k) of the operand that `descriptor` describes, in the shared memory of `block`.
template <class T>
T operand_element(uint64_t descriptor, unsigned block, bool along_mn, int mn, int k) {
  const auto field = [descriptor](int bit) { return static_cast<uint32_t>(descriptor >> bit & 0x3fff) << 4; };
  const uint32_t start = field(0), leading = field(16), stride = field(32);
  const uint32_t offset =
      along_mn ? static_cast<uint32_t>(mn / 64) * leading + static_cast<uint32_t>(k / 8) * stride +
                     static_cast<uint32_t>(k % 8 * 128 + mn % 64 * 2)
               : static_cast<uint32_t>(mn / 8) * stride + static_cast<uint32_t>(mn % 8 * 128 + k * int{sizeof(T)});
  T element;
  memset(&element, 0xff, sizeof element);
  if (descriptor >> 62 == 1 && (descriptor >> 49 & 7) == 0)  // the 128-byte swizzle, no base offset
    memcpy(&element, shared_bytes[block] + swizzle_128(start + offset), sizeof element);
  return element;
}

template <class T>
float value_of(T element) {
  return cuda::to_float(element);
}
inline float value_of(cuda::Tf32 element) { return float_of_bits(element.bits & ~0x1fffu); }
inline uint32_t value_of(int8_t element) { return static_cast<uint32_t>(int32_t{element}); }  // sums modulo 2^32

template <class T, bool a_along_mn, bool b_along_mn, int columns>
void perform_product(const WarpgroupProduct& product) {
  constexpr int depth = 32 / sizeof(T);
  using Value = decltype(value_of(T{}));
  static Value a[64][depth], b[depth][columns], sums[columns];
  for (int k = 0; k < depth; ++k) {
    for (int row = 0; row < 64; ++row)
      a[row][k] = value_of(operand_element<T>(product.a, product.block, a_along_mn, row, k));
    for (int column = 0; column < columns; ++column)
      b[k][column] = value_of(operand_element<T>(product.b, product.block, b_along_mn, column, k));
  }
  for (int row = 0; row < 64; ++row) {
    // Warp row/16 holds 16 rows; its lane (row%8)*4 + (column%8)/2 rows row%8 and row%8+8.
    const auto d = [&](int column) -> Value& {
      const int thread = row / 16 * 32 + row % 8 * 4 + column % 8 / 2;
      return static_cast<Value*>(product.d[thread])[column / 8 * 4 + row % 16 / 8 * 2 + column % 2];
    };
    for (int column = 0; column < columns; ++column) sums[column] = product.add ? d(column) : 0;
    for (int k = 0; k < depth; ++k)
      for (int column = 0; column < columns; ++column) sums[column] += a[row][k] * b[k][column];
    for (int column = 0; column < columns; ++column) d(column) = sums[column];
  }
}

// The groups but for the newest `left`.
inline void complete_products(Warpgroup& warpgroup, int left) {
  int done = 0;
  while (done < warpgroup.count && warpgroup.products[done].group < warpgroup.group - left) {
    warpgroup.products[done].perform(warpgroup.products[done]);
    ++done;
  }
  warpgroup.count -= done;
  for (int i = 0; i < warpgroup.count; ++i) warpgroup.products[i] = warpgroup.products[i + done];
}

}  // namespace pyhpc::emulation

namespace pyhpc::cuda::wgmma {

inline void fence() {}
template <class Sum, int count>
void pin(Sum (&)[count]) {}

inline void commit() {
  auto& warpgroup = emulation::own_warpgroup();
  emulation::arrive(warpgroup.barrier, threads, [&] { ++warpgroup.group; });
}

template <int left>
void wait() {
  auto& warpgroup = emulation::own_warpgroup();
  emulation::arrive(warpgroup.barrier, threads, [&] { emulation::complete_products(warpgroup, left); });
}

template <class T, bool a_along_mn, bool b_along_mn, int count>
void multiply_add(Sum<T> (&d)[count], uint64_t a, uint64_t b, bool add) {
  auto& warpgroup = emulation::own_warpgroup();
  warpgroup.d[emulation::current % threads] = d;
  emulation::arrive(warpgroup.barrier, threads, [&] {
    emulation::WarpgroupProduct product = {{},
                                           a,
                                           b,
                                           add,
                                           emulation::slot,
                                           warpgroup.group,
                                           emulation::perform_product<T, a_along_mn, b_along_mn, 2 * count>};
    memcpy(product.d, warpgroup.d, sizeof product.d);
    if (!emulation::reverse_order || warpgroup.count == emulation::most_products) return product.perform(product);
    warpgroup.products[warpgroup.count++] = product;
  });
}

}  // namespace pyhpc::cuda::wgmma

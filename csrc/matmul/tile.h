// The micro-kernel: c (rows x columns) = or += the product of a packed panel of a and one of b, all sums in registers.
//   for u < units: c[i, j] += a[u * max_rows + i] b[u * columns + j]
// or, in place, of matrices as they lie in memory, k near in a, columns near in b:
//   for u < units: c[i, j] += a[i * a_row + u] b[u * b_unit + j]
// `max_rows` x `vectors` is chosen by the target so that the sums, one row of b and the broadcast of a fill its
// registers. One instance per number of rows and of vectors, so that the edges of a matrix cost no more than they are.
#pragma once
#include "matmul/pack.h"

namespace pyhpc::matmul {
namespace {

// How a tile's sums reach c. Streamed ones pass the caches: c's rows are then aligned to a cache line.
enum class Store { replace, add, stream };

// One panel of a, one of b, and memory to bring into the second-level cache meanwhile, `ahead_step` bytes further with
// each `Micro::depth` units: fetched by the first tile that needs it, it would arrive slower than that tile computes.
template <class Word>
struct Panels {
  int64_t units;
  const Word *a, *b;
  const char* ahead;
  int64_t ahead_step;
  int64_t a_row = 0, b_unit = 0;  // in place only
  bool a_needs_care = false;      // as Header::mark, of the block of a
};

template <class Arithmetic, int max_rows, int vectors, bool in_place = false>
struct Micro {
  using Word = typename Arithmetic::Word;
  using V = typename Arithmetic::V;
  using Sum = typename Arithmetic::Sum;
  using Sums = typename Arithmetic::Sums;
  static_assert(sizeof(Word) == sizeof(Sum), "a vector holds as many of either");
  static constexpr int lanes = sizeof(V) / sizeof(Word), columns = vectors * lanes;
  static constexpr int header =
      Arithmetic::header != Header::none ? columns : 0;  // words before the first row of a packed panel of b
  static constexpr int depth = 4;                        // units per turn of the loop

  // c has `rows` rows, `row_step` apart, of `wanted_vectors` neighbouring vectors.
  static void run(int64_t rows, int64_t wanted_vectors, const Panels<Word>& panels, Sum* c, int64_t row_step,
                  Store store) {
    by_rows<max_rows>(rows, wanted_vectors, panels, c, row_step, store);
  }

 private:
  template <int rows>
  static void by_rows(int64_t wanted, int64_t wanted_vectors, const Panels<Word>& panels, Sum* c, int64_t row_step,
                      Store store) {
    if (wanted == rows) return by_vectors<rows, vectors>(wanted_vectors, panels, c, row_step, store);
    if constexpr (rows > 1) by_rows<rows - 1>(wanted, wanted_vectors, panels, c, row_step, store);
  }

  template <int rows, int width>
  static void by_vectors(int64_t wanted, const Panels<Word>& panels, Sum* c, int64_t row_step, Store store) {
    if (wanted == width) return product<rows, width>(panels, c, row_step, store);
    if constexpr (width > 1) by_vectors<rows, width - 1>(wanted, panels, c, row_step, store);
  }

  template <int rows, int width>
  __attribute__((noinline)) static void product(const Panels<Word>& panels, Sum* c, int64_t row_step, Store store) {
    const int64_t a_row = in_place ? panels.a_row : 1, a_unit = in_place ? 1 : max_rows;
    const int64_t b_unit = in_place ? panels.b_unit : columns;
    const Word *a = panels.a, *b = panels.b;
    const char* ahead = panels.ahead;
    Sums sums[rows][width];
    constexpr int lines = rows * width;
    const int64_t late = store == Store::stream ? 0 : depth * (lines + 8);
    if (panels.units < late)
      each<rows, width>([&](int i, int j) { __builtin_prefetch(c + i * row_step + j * lanes, 1); });
    each<rows, width>(
        [&](int i, int j) { sums[i][j] = Arithmetic::header == Header::sums ? load<Sums>(b + j * lanes) : Sums{}; });
    b += header;
    int64_t u = panels.units;
    for (; u >= depth; u -= depth, a += depth * a_unit, b += depth * b_unit, ahead += panels.ahead_step) {
      if (!in_place) __builtin_prefetch(ahead, 0, 2);
      const int64_t line = (late - u) / depth;
      if (static_cast<uint64_t>(line) < lines)
        __builtin_prefetch(c + line / width * row_step + line % width * lanes, 1);
#pragma GCC unroll 4
      for (int d = 0; d < depth; ++d) add_unit<rows, width>(sums, a + d * a_unit, a_row, b + d * b_unit);
    }
    for (; u > 0; --u, a += a_unit, b += b_unit) add_unit<rows, width>(sums, a, a_row, b);
    if (store == Store::stream)
      return each<rows, width>([&](int i, int j) { stream(c + i * row_step + j * lanes, sums[i][j]); });
    if (store == Store::add)
      each<rows, width>([&](int i, int j) { sums[i][j] += load<Sums>(c + i * row_step + j * lanes); });
    each<rows, width>([&](int i, int j) { memcpy(c + i * row_step + j * lanes, &sums[i][j], sizeof(Sums)); });
  }

  template <int rows, int width, class Call>
  __attribute__((always_inline)) static inline void each(const Call& call) {
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < width; ++j) call(i, j);
  }

  template <int rows, int width>
  __attribute__((always_inline)) static inline void add_unit(Sums (&sums)[rows][width], const Word* a, int64_t a_row,
                                                             const Word* b) {
    V row[width];
#pragma GCC unroll 8
    for (int j = 0; j < width; ++j) row[j] = load<V>(b + j * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const V factor = broadcast<V>(a[i * a_row]);
#pragma GCC unroll 8
      for (int j = 0; j < width; ++j) sums[i][j] = Arithmetic::multiply_add(sums[i][j], factor, row[j]);
    }
  }
};

// The micro-kernel with the packing of a format, for tiles of any size up to the whole one.
template <class Format_, int max_rows_, int vectors>
struct Tile {
  using Format = Format_;
  using Kernel = Micro<typename Format::Arithmetic, max_rows_, vectors>;
  using Word = typename Kernel::Word;
  using V = typename Kernel::V;
  using Sum = typename Kernel::Sum;
  static constexpr int lanes = Kernel::lanes, max_rows = max_rows_, columns = Kernel::columns, header = Kernel::header;
  static constexpr Header head = Format::Arithmetic::header;

  // Whether it needs care.
  static bool pack_a(Source<typename Format::Input> a, int64_t rows, int64_t k, Word* packed) {
    Packer<Format, max_rows, Side::a>::panel(a, rows, k, packed);
    if constexpr (head == Header::mark) return Format::needs_care(packed, ceil_div(k, Format::group) * max_rows);
    return false;
  }

  // Units `unit` and following of a panel, from `k` elements of k.
  static void pack_b(Source<typename Format::Input> b, int64_t count, int64_t k, Word* panel, int64_t unit) {
    Word* packed = panel + header + unit * columns;
    Packer<Format, columns, Side::b>::panel(b, count, k, packed);
    if constexpr (head == Header::mark) {
      if (unit == 0) memset(panel, 0, sizeof(Word) * header);
      panel[0] |= Format::needs_care(packed, ceil_div(k, Format::group) * columns);
    }
    if constexpr (head == Header::sums) {
      // The sums start from minus what a's shift by 128 adds: a panel product with 128 in every byte of a.
      V sums[vectors] = {};
      for (int64_t u = 0; u < ceil_div(k, Format::group); ++u, packed += columns)
        for (int j = 0; j < vectors; ++j)
          sums[j] = Format::Arithmetic::multiply_add(sums[j], broadcast<V>(Format::shift), load<V>(packed + j * lanes));
      for (int j = 0; j < vectors; ++j) {
        const V before = unit > 0 ? load<V>(panel + j * lanes) : V{}, after = before - sums[j];
        memcpy(panel + j * lanes, &after, sizeof after);
      }
    }
  }

  // c += or = for rows x count elements, `row_step` and `column_step` apart.
  static void run(int64_t rows, int64_t count, const Panels<Word>& panels, Sum* c, int64_t row_step,
                  int64_t column_step, Store store) {
    if constexpr (head == Header::mark)
      if (panels.a_needs_care || *panels.b)
        return run_by<Micro<typename Format::Careful, max_rows, vectors>>(rows, count, panels, c, row_step, column_step,
                                                                          store);
    run_by<Kernel>(rows, count, panels, c, row_step, column_step, store);
  }

 private:
  template <class Chosen>
  static void run_by(int64_t rows, int64_t count, const Panels<Word>& panels, Sum* c, int64_t row_step,
                     int64_t column_step, Store store) {
    const int64_t wanted = ceil_div(count, lanes);
    if (count == wanted * lanes && column_step == 1) return Chosen::run(rows, wanted, panels, c, row_step, store);
    // The edge of the matrix, or scattered columns: through a full tile beside it.
    alignas(64) Sum whole[max_rows * columns];
    Chosen::run(rows, wanted, panels, whole, columns, Store::replace);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < count; ++j) {
        Sum& element = c[i * row_step + j * column_step];
        element = store == Store::add ? element + whole[i * columns + j] : whole[i * columns + j];
      }
  }
};

}  // namespace
}  // namespace pyhpc::matmul

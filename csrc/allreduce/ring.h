// A one-way channel between two ranks that share memory: a ring of cache lines with one writer and one reader.
//
// A line carries 56 bytes and a word: its number in the ring's life and the signature of the call it belongs to. The
// writer stores the bytes, then the word with release; the reader loads the word with acquire and, once it is the
// expected one, the bytes. There is no other flag, so a message costs the transfer of its own lines and nothing else.
//
// Why this is right on every processor: release and acquire order the bytes before the word and the word before the
// bytes, in the C++ memory model; on x86 they are plain moves, because it keeps the order of stores and of loads, on
// Arm stlr and ldar. One 64-byte vector store instead would rely on it being indivisible, which no manual promises
// (some processors split it), and would save a nanosecond. A line is written again only after the reader has published
// (release) that it has consumed it and the writer has seen that (acquire), so no line changes while it is read.
// Numbers are never reused within 2^32 lines, so an old word cannot be taken for a new one.
#pragma once
#include <stdint.h>
#include <string.h>

#include <atomic>

namespace pyhpc::allreduce {

constexpr int64_t line_bytes = 56;
constexpr uint64_t ring_lines = 256;

struct alignas(64) Line {
  char data[line_bytes];
  std::atomic<uint64_t> word;
};

struct RingMemory {  // in shared memory; all zero at first
  Line lines[ring_lines];
  alignas(64) std::atomic<uint64_t> consumed;  // lines that the reader has done with, ever
};

static_assert(sizeof(Line) == 64 && std::atomic<uint64_t>::is_always_lock_free);

// Lines of a message that travels in the lines themselves; an empty one takes a line too.
inline uint64_t lines_of(int64_t bytes) { return bytes == 0 ? 1 : (bytes + line_bytes - 1) / line_bytes; }

// The longest such message: whatever the reader has not published, three more of this length fit.
constexpr int64_t longest_in_lines = ring_lines / 4 * line_bytes;

inline uint64_t line_word(uint64_t number, uint32_t signature) {
  return static_cast<uint64_t>(signature) << 32 | static_cast<uint32_t>(number + 1);
}

// Ask for a line for writing before it is needed; the other side has done with it long ago.
inline void prefetch_to_write(const void* line) {
#if defined(__x86_64__)
  __asm__ volatile("prefetchw %0" : : "m"(*static_cast<const char*>(line)));
#else
  __builtin_prefetch(line, 1);
#endif
}

class RingWriter {
 public:
  explicit RingWriter(RingMemory* memory) : memory_(memory) {}

  bool room(uint64_t lines) { return consumed(next_ + lines - 1 - ring_lines); }

  // Whether the reader has done with line `number` (and with every one before it).
  bool consumed(uint64_t number) {
    if (static_cast<int64_t>(consumed_ - number) > 0) return true;
    consumed_ = memory_->consumed.load(std::memory_order_acquire);
    return static_cast<int64_t>(consumed_ - number) > 0;
  }

  uint64_t next() const { return next_; }

  // One line, of at most line_bytes; returns its number. There must be room.
  uint64_t put(const void* data, int64_t bytes, uint32_t signature) {
    Line& line = at(next_);
    if (bytes == line_bytes)
      memcpy(line.data, data, line_bytes);
    else
      memcpy(line.data, data, bytes);
    line.word.store(line_word(next_, signature), std::memory_order_release);
    return next_++;
  }

  // A message, and then the lines of the next one, likely as long, are asked for while this rank waits for others.
  void put_message(const char* data, int64_t bytes, uint32_t signature) {
    const uint64_t lines = lines_of(bytes);
    for (; bytes > line_bytes; data += line_bytes, bytes -= line_bytes) put(data, line_bytes, signature);
    put(data, bytes, signature);
    for (uint64_t i = 0; i < lines; ++i) prefetch_to_write(&at(next_ + i));
  }

 private:
  Line& at(uint64_t number) { return memory_->lines[number % ring_lines]; }

  RingMemory* memory_;
  uint64_t next_ = 0;
  uint64_t consumed_ = 0;  // as last seen
};

enum class Arrival { none, expected, foreign };

class RingReader {
 public:
  explicit RingReader(RingMemory* memory) : memory_(memory) {}

  // Whether line `ahead` after the next one has arrived; foreign: it belongs to another call than `signature` says.
  Arrival arrival(uint64_t ahead, uint32_t signature) const {
    const uint64_t word = at(ahead).word.load(std::memory_order_acquire);
    const uint64_t expected = line_word(next_ + ahead, signature);
    if (word == expected) return Arrival::expected;
    return static_cast<uint32_t>(word) == static_cast<uint32_t>(expected) ? Arrival::foreign : Arrival::none;
  }

  const char* data(uint64_t ahead) const { return at(ahead).data; }

  void consume(uint64_t lines) { next_ += lines; }

  // Tells the writer. Lines whose writer waits for them are published at once, others now and then.
  void publish() {
    if (published_ == next_) return;
    memory_->consumed.store(next_, std::memory_order_release);
    published_ = next_;
  }
  void publish_sometimes() {
    if (next_ - published_ >= ring_lines / 4) publish();
  }

 private:
  const Line& at(uint64_t ahead) const { return memory_->lines[(next_ + ahead) % ring_lines]; }

  RingMemory* memory_;
  uint64_t next_ = 0, published_ = 0;
};

}  // namespace pyhpc::allreduce

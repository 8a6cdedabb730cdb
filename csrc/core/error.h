// The one C++ exception. bind code turns it into pyhpc.errors.<kind>; target files throw nothing.
#pragma once
#include <stdexcept>
#include <string>
#include <type_traits>

namespace pyhpc {

// -> InvalidArgument, Unsupported, DeviceError, CommunicationError
enum class ErrorKind { invalid, unsupported, device, communication };

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& sentence) : std::runtime_error(sentence), kind(kind) {}
  const ErrorKind kind;
};

// `sentence` is a string, or a function that returns one: joining its parts on every call that is right costs more than
// a small kernel.
template <class Sentence>
inline void require(bool condition, const Sentence& sentence) {
  if (condition) return;
  if constexpr (std::is_invocable_v<Sentence>)
    throw Error(ErrorKind::invalid, sentence());
  else
    throw Error(ErrorKind::invalid, sentence);
}

}  // namespace pyhpc

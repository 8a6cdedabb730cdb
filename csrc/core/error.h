// The one C++ exception. bind code turns it into pyhpc.errors.<kind>; target files throw nothing.
#pragma once
#include <stdexcept>
#include <string>

namespace pyhpc {

enum class ErrorKind { invalid, unsupported, device };  // -> InvalidArgument, Unsupported, DeviceError

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& sentence) : std::runtime_error(sentence), kind(kind) {}
  const ErrorKind kind;
};

inline void require(bool condition, const std::string& sentence) {
  if (!condition) throw Error(ErrorKind::invalid, sentence);
}

}  // namespace pyhpc

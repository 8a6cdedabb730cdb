// The clock at which this core runs just now, from instructions whose latency is known.
#pragma once

namespace pyhpc {

// Hertz, or 0 where this architecture has no instruction of known latency here. Takes about a millisecond.
double effective_hertz();

}  // namespace pyhpc

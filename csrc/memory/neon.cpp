// NEON: Armv8 has no single streaming vector store, but a store of a pair (stnp) with the same hint.

#include "memory/loops.h"

namespace pyhpc::memory {
namespace {

struct Target {
  typedef double Vector __attribute__((vector_size(16)));
  static void stream(double* to, Vector value) {
    __asm__ volatile("stnp %d1, %d2, %0" : "=Q"(*reinterpret_cast<Vector*>(to)) : "w"(value[0]), "w"(value[1]));
  }
  static void fence() { __asm__ volatile("dmb ishst" ::: "memory"); }
};

}  // namespace

extern const Variant neon;
const Variant neon = {"neon", Loops<Target>::run};

}  // namespace pyhpc::memory

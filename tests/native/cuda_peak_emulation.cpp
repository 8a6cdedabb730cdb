// The sm90 peak loops as a plain C library that runs them on the CPU (core/cuda_hopper_emulation.h), for
// test_cuda_peak.py.
#include "peak/sm90.cu"

extern "C" {

void set_reverse_order(bool reverse) { pyhpc::emulation::reverse_order = reverse; }

const char* refusal(int number) {
  return pyhpc::peak::sm90.refusal({static_cast<pyhpc::peak::Number>(number), 0, nullptr});
}

int peak(int number, int64_t blocks, int64_t* counted) {
  return pyhpc::peak::sm90.run({static_cast<pyhpc::peak::Number>(number), blocks, counted}, 0);
}
}

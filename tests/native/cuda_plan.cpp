// The sm90 matmul's plan, order of tiles and layout of shared memory as a plain C library, for test_cuda_plan.py.
#include "core/cuda_wgmma.h"
#include "matmul/sm90_plan.h"

namespace tiles = pyhpc::matmul::sm90_tiles;
namespace plans = pyhpc::matmul::sm90_plan;
namespace layout = pyhpc::cuda::wgmma;

extern "C" {

int64_t steps(const tiles::Order* order) { return tiles::steps(*order); }
void place_of(const tiles::Order* order, int step, tiles::Place* place) { *place = tiles::place_of(*order, step); }

void best(const plans::Shape* shape, plans::Plan* plan) { *plan = plans::best(*shape); }
void chosen(const plans::Shape* shape, const char* name, plans::Plan* plan) { *plan = plans::chosen(*shape, name); }
int64_t slots(const plans::Shape* shape, int cluster) { return plans::slots(*shape, cluster); }
int explain(const plans::Shape* shape, char* text, int size) { return plans::explain(*shape, text, size); }

uint32_t swizzled(uint32_t offset) { return layout::swizzled(offset); }
uint64_t descriptor(uint32_t address, bool along_mn) { return layout::descriptor(address, along_mn); }
uint64_t next_k(bool along_mn) { return layout::next_k(along_mn); }
int d_row(int thread, int i) { return layout::d_row(thread, i); }
int d_column(int thread, int i) { return layout::d_column(thread, i); }
}

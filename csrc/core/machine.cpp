// Processor features through cpuid/xgetbv (x86) or the auxiliary vector (Arm); cache sizes through sysfs.
#include "core/machine.h"

#include <string.h>
#include <unistd.h>

#include <fstream>
#include <string>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace pyhpc {
namespace {

#if defined(__x86_64__)
uint64_t saved_register_state() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

enum class X86 { avx2, avx512, avx512_vnni, avx512_bf16 };

const char* x86_refusal(X86 wanted) {
  uint32_t a, b, c, d, b7 = 0, c7 = 0, a7_1 = 0, unused;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return "the processor has no cpuid leaf 1";
  const bool osxsave = c & bit_OSXSAVE, avx = c & bit_AVX, fma = c & bit_FMA, f16c = c & bit_F16C;
  if (!osxsave || !avx) return "the processor or the operating system has no AVX";
  __get_cpuid_count(7, 0, &unused, &b7, &c7, &unused);
  const uint64_t state = saved_register_state();
  if (!(b7 & bit_AVX2) || !fma || !f16c) return "the processor has no AVX2 with FMA and F16C";
  if ((state & 0x6) != 0x6) return "the operating system does not save the AVX registers";
  if (wanted != X86::avx2) {
    constexpr uint32_t needed = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((b7 & needed) != needed) return "the processor has no AVX-512 F, BW, DQ and VL";
    if ((state & 0xe6) != 0xe6) return "the operating system does not save the AVX-512 registers";
    if (wanted != X86::avx512 && !(c7 & bit_AVX512VNNI)) return "the processor has no AVX-512 VNNI";
    __get_cpuid_count(7, 1, &a7_1, &unused, &unused, &unused);
    if (wanted == X86::avx512_bf16 && !(a7_1 & bit_AVX512BF16)) return "the processor has no AVX-512 BF16";
  }
  return nullptr;
}
#endif

int64_t read_size(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  char unit = 0;
  if (!(file >> value)) return 0;
  if (file >> unit) value *= unit == 'K' ? 1024 : unit == 'M' ? 1024 * 1024 : 1;
  return value;
}

std::string read_word(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

CacheSizes probe_caches() {
  CacheSizes sizes = {};
  for (int index = 0; index < 8; ++index) {
    const std::string base = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    const std::string level = read_word(base + "level"), type = read_word(base + "type");
    if (level.empty() || type == "Instruction") continue;
    const int64_t bytes = read_size(base + "size");
    const int ways = static_cast<int>(read_size(base + "ways_of_associativity"));
    if (level == "1") sizes.l1d = bytes, sizes.l1d_ways = ways;
    if (level == "2") sizes.l2 = bytes, sizes.l2_ways = ways;
    if (level == "3") sizes.l3 = bytes, sizes.l3_ways = ways;
  }
  return sizes;
}

}  // namespace

const char* const targets[] = {
#define PYHPC_TARGET_NAME(target) #target,
#include "targets.inc"
#undef PYHPC_TARGET_NAME
    nullptr};

const char* target_refusal(const char* target) {
  if (strcmp(target, "generic") == 0) return nullptr;
#if defined(__x86_64__)
  // Asked once: in a virtual machine every cpuid leaves it, which takes longer than a small kernel.
  static const char* const avx2 = x86_refusal(X86::avx2);
  static const char* const avx512 = x86_refusal(X86::avx512);
  static const char* const avx512_vnni = x86_refusal(X86::avx512_vnni);
  static const char* const avx512_bf16 = x86_refusal(X86::avx512_bf16);
  if (strcmp(target, "avx2") == 0) return avx2;
  if (strcmp(target, "avx512") == 0) return avx512;
  if (strcmp(target, "avx512_vnni") == 0) return avx512_vnni;
  if (strcmp(target, "avx512_bf16") == 0) return avx512_bf16;
#elif defined(__aarch64__)
  const bool neon_bf16 = strcmp(target, "neon_bf16") == 0;
  if (neon_bf16 || strcmp(target, "neon") == 0) {
    if (!(getauxval(AT_HWCAP) & HWCAP_ASIMDHP)) return "the processor has no half-precision NEON (Armv8.2 FP16)";
    constexpr unsigned long needed = HWCAP2_BF16 | HWCAP2_I8MM;
    if (neon_bf16 && (getauxval(AT_HWCAP2) & needed) != needed) return "the processor has no NEON BF16 and I8MM";
    return nullptr;
  }
#endif
  return "this build has no code for that target";
}

const CacheSizes& cache_sizes() {
  static const CacheSizes sizes = probe_caches();
  return sizes;
}

}  // namespace pyhpc

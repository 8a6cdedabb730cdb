# The names a CPU kernel file may carry, best first, with the compiler flags of each.
# csrc/<kernel>/<target>.cpp is compiled once with its target's flags into a plain object; the list of the files that
# exist becomes generated/<kernel>/variants.inc, best first, which the kernel's bind.cpp includes. Nothing else is edited
# to add a target file.
set(PYHPC_TARGETS_x86_64 avx512_bf16 avx512_vnni avx512 avx2 generic)
set(PYHPC_TARGETS_aarch64 neon_bf16 neon generic)
set(PYHPC_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512)
set(PYHPC_FLAGS_avx512_vnni ${PYHPC_FLAGS_avx512} -mavx512vnni)
set(PYHPC_FLAGS_avx512_bf16 ${PYHPC_FLAGS_avx512_vnni} -mavx512bf16)
set(PYHPC_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(PYHPC_FLAGS_neon -march=armv8.2-a+fp16)
set(PYHPC_FLAGS_neon_bf16 -march=armv8.2-a+fp16+bf16+i8mm)
set(PYHPC_FLAGS_generic "")

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(PYHPC_TARGETS ${PYHPC_TARGETS_x86_64})
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  set(PYHPC_TARGETS ${PYHPC_TARGETS_aarch64})
else()
  set(PYHPC_TARGETS generic)
endif()

set(PYHPC_OPTIMIZE -O3)
# Its loops are unrolled where they are written; -O3 would compile its many instances seven times as long for no speed.
set(PYHPC_OPTIMIZE_matmul -O2 -fpeel-loops)
if(PYHPC_SANITIZE)
  # The loops are written once and shared by all targets: one of them shows their errors, and an instrumented build of the
  # wide ones takes a quarter of an hour.
  set(PYHPC_TARGETS generic)
  set(PYHPC_OPTIMIZE -O1)
  unset(PYHPC_OPTIMIZE_matmul)
endif()

set(listing "")
foreach(target ${PYHPC_TARGETS})
  string(APPEND listing "PYHPC_TARGET_NAME(${target})\n")
endforeach()
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/generated/targets.inc CONTENT "${listing}")

# Compile every target file of every kernel folder and link the objects into `module`, after checking that none of them
# defines a symbol that another object could use: the linker would keep one copy, perhaps the AVX-512 one.
function(pyhpc_add_cpu_targets module)
  file(GLOB kernel_dirs CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/*/bind.cpp)
  set(kernels "")
  foreach(bind ${kernel_dirs})
    get_filename_component(dir ${bind} DIRECTORY)
    get_filename_component(kernel ${dir} NAME)
    string(APPEND kernels "PYHPC_KERNEL(${kernel})\n")
    set(listing "")
    foreach(target ${PYHPC_TARGETS})
      file(GLOB found CONFIGURE_DEPENDS ${dir}/${target}.cpp)
      if(found)
        string(APPEND listing "PYHPC_VARIANT(${target})\n")
        set(object ${kernel}_${target})
        add_library(${object} OBJECT ${found})
        target_include_directories(${object} PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
        target_compile_definitions(${object} PRIVATE PYHPC_TARGET=${target})
        set(optimize ${PYHPC_OPTIMIZE})
        if(DEFINED PYHPC_OPTIMIZE_${kernel})
          set(optimize ${PYHPC_OPTIMIZE_${kernel}})
        endif()
        target_compile_options(${object} PRIVATE ${optimize} -Wall -Wextra -Wno-unknown-pragmas -fno-exceptions -fno-rtti
                                                 -fno-math-errno -ffp-contract=fast ${PYHPC_FLAGS_${target}})
        target_link_libraries(${object} PRIVATE OpenMP::OpenMP_CXX)
        if(PYHPC_SANITIZE)
          target_compile_options(${object} PRIVATE -fsanitize=${PYHPC_SANITIZE} -fno-omit-frame-pointer -g)
        endif()
        set(stamp ${PROJECT_BINARY_DIR}/${object}.symbols)
        add_custom_command(
          OUTPUT ${stamp}
          COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} "-DOBJECTS=$<TARGET_OBJECTS:${object}>" -DKERNEL=${kernel}
                  -DTARGET=${target} -DSTAMP=${stamp} -P ${PROJECT_SOURCE_DIR}/csrc/check_symbols.cmake
          DEPENDS ${object} $<TARGET_OBJECTS:${object}> ${PROJECT_SOURCE_DIR}/csrc/check_symbols.cmake
          COMMENT "Checking ${object} for shared symbols"
          COMMAND_EXPAND_LISTS VERBATIM)
        target_sources(${module} PRIVATE ${stamp} $<TARGET_OBJECTS:${object}>)
      endif()
    endforeach()
    set(header ${PROJECT_BINARY_DIR}/generated/${kernel}/variants.inc)
    file(CONFIGURE OUTPUT ${header} CONTENT "${listing}")
  endforeach()
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/generated/kernels.inc CONTENT "${kernels}")
endfunction()

# Builds _cuda: csrc/cuda_module.cpp, every csrc/*/bind_cuda.cpp and every csrc/<kernel>/<target>.cu of the targets below.
# As for the CPU (targets.cmake) the folder is the list: generated/<kernel>/cuda_variants.inc names the target files that
# exist, best first, and generated/cuda_kernels.inc the kernels.
# The runtime is linked statically and finds the driver when it is first called, so _cuda imports on a machine without one.
# An sm80 file serves every GPU since Ampere: machine code for A100 and H100, PTX for what came later. Hopper's own
# instructions (wgmma, setmaxnreg) exist only in the "a" architecture, which has no successor to hand PTX to.
set(PYHPC_CUDA_TARGETS sm90 sm80)
set(PYHPC_CUDA_ARCHITECTURES_sm90 90a-real)
set(PYHPC_CUDA_ARCHITECTURES_sm80 80-real 90)
set(PYHPC_CUDA_WARNINGS $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings> $<$<COMPILE_LANGUAGE:CXX>:-Wall> -Wextra)

if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES ${PYHPC_CUDA_ARCHITECTURES_sm80})
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
enable_language(CUDA)

file(GLOB cuda_core CONFIGURE_DEPENDS csrc/core/cuda_*.cu)
file(GLOB cuda_binds CONFIGURE_DEPENDS csrc/*/bind_cuda.cpp)
pybind11_add_module(_cuda MODULE NO_EXTRAS csrc/cuda_module.cpp ${cuda_core} ${cuda_binds})
target_include_directories(_cuda PRIVATE csrc ${PROJECT_BINARY_DIR}/generated)
target_compile_options(_cuda PRIVATE ${PYHPC_CUDA_WARNINGS})
set_target_properties(_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden)
target_link_libraries(_cuda PRIVATE ${CMAKE_DL_LIBS})

set(kernels "")
foreach(bind ${cuda_binds})
  get_filename_component(dir ${bind} DIRECTORY)
  get_filename_component(kernel ${dir} NAME)
  string(APPEND kernels "PYHPC_KERNEL(${kernel})\n")
  set(listing "")
  foreach(target ${PYHPC_CUDA_TARGETS})
    file(GLOB found CONFIGURE_DEPENDS ${dir}/${target}.cu)
    if(found)
      string(APPEND listing "PYHPC_VARIANT(${target})\n")
      set(object cuda_${kernel}_${target})
      add_library(${object} OBJECT ${found})
      target_include_directories(${object} PRIVATE csrc)
      target_compile_options(${object} PRIVATE ${PYHPC_CUDA_WARNINGS})
      set_target_properties(${object} PROPERTIES CUDA_ARCHITECTURES "${PYHPC_CUDA_ARCHITECTURES_${target}}"
                                                 CUDA_VISIBILITY_PRESET hidden)
      target_sources(_cuda PRIVATE $<TARGET_OBJECTS:${object}>)
    endif()
  endforeach()
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/generated/${kernel}/cuda_variants.inc CONTENT "${listing}")
endforeach()
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/generated/cuda_kernels.inc CONTENT "${kernels}")

install(TARGETS _cuda LIBRARY DESTINATION pyhpc)

# Fails when a target object (compiled with its own instruction set) defines anything that other objects could share.
# Allowed is one global: the variant record pyhpc::KERNEL::TARGET. Put everything else in an anonymous namespace, and
# include no C++ standard container or <algorithm> in a target file.
execute_process(COMMAND ${NM} --demangle --defined-only --extern-only ${OBJECTS} OUTPUT_VARIABLE symbols
                COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE "\n" ";" symbols "${symbols}")
set(seen FALSE)
foreach(line IN LISTS symbols)
  if(line MATCHES "^[0-9a-f]+ [A-Za-z] pyhpc::${KERNEL}::${TARGET}$")
    set(seen TRUE)
  elseif(line MATCHES "^[0-9a-f]+ [A-Za-z] (DW\\.ref\\.|_?_?asan|_?_?ubsan|_?_?odr_asan|_?_?tsan|OMP_)")
    # Sanitizer and unwinder markers hold no code.
  elseif(line MATCHES "^[0-9a-f]+ [A-Za-z] (.+)$")
    message(FATAL_ERROR "${KERNEL}/${TARGET}.cpp defines the shared symbol '${CMAKE_MATCH_1}'. Its code needs "
                        "${TARGET} instructions but other objects could call it: put it in an anonymous namespace.")
  endif()
endforeach()
if(NOT seen)
  message(FATAL_ERROR "${KERNEL}/${TARGET}.cpp does not define 'extern const Variant ${TARGET}' in namespace pyhpc::${KERNEL}")
endif()
file(WRITE ${STAMP} "ok\n")

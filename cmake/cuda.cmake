# fastwm._cuda: csrc/cuda for every architecture that fastwm supports, with nvcc.
#
# FASTWM_CUDA: AUTO builds it where a CUDA compiler is found, ON fails without one, OFF leaves it out. The compiler is CUDACXX,
# the nvcc on PATH, or the one that pip's wheels bring (pyproject.toml, extra cuda-build), in this order.
set(FASTWM_CUDA AUTO CACHE STRING "fastwm._cuda: AUTO, ON or OFF")
# sm_90a and sm_100 have instructions of their own; 120 alone is kept as PTX too, for what comes after it.
# Machine code runs on its whole generation (80: 8.x, 100: 10.x; 90a: 9.0 alone). Nothing is for 11.0, Jetson Thor.
set(FASTWM_CUDA_ARCHITECTURES "80-real;90a-real;100-real;120" CACHE STRING "as CMAKE_CUDA_ARCHITECTURES")
set(FASTWM_CUDA_OLDEST 12.8) # the first nvcc that knows sm_100 and sm_120

# The nvcc of pip's wheels, in the environment of the build or, when pip builds in isolation, of the interpreter; or "".
function(fastwm_pip_nvcc found)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c "import glob, sys, sysconfig
places = [*sys.path, sysconfig.get_path('purelib')]
print(next((f for p in places for f in sorted(glob.glob(p + '/nvidia/cu*/bin/nvcc'), reverse=True)), ''))"
    OUTPUT_VARIABLE nvcc OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  set(${found} "${nvcc}" PARENT_SCOPE)
endfunction()

# Where nvcc is, in CUDACXX for CMake; what stands in the way of it, or "", in `missing`.
function(fastwm_find_nvcc missing)
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(FASTWM_NVCC nvcc NO_PACKAGE_ROOT_PATH NO_CMAKE_PATH NO_CMAKE_ENVIRONMENT_PATH NO_CMAKE_SYSTEM_PATH)
    if(NOT FASTWM_NVCC)
      fastwm_pip_nvcc(nvcc)
      if(nvcc)
        # The wheels of 13.0 disagree on the name: nvcc looks in lib64, the runtime lies in lib.
        cmake_path(GET nvcc PARENT_PATH root)
        cmake_path(GET root PARENT_PATH root)
        set(ENV{CUDAFLAGS} "-L${root}/lib $ENV{CUDAFLAGS}")
        set(FASTWM_NVCC "${nvcc}" CACHE FILEPATH "the CUDA compiler" FORCE)
      endif()
    endif()
    if(NOT FASTWM_NVCC)
      set(${missing} "no nvcc in CUDACXX, on PATH, or from pip" PARENT_SCOPE)
      return()
    endif()
    set(ENV{CUDACXX} "${FASTWM_NVCC}")
  endif()
  include(CheckLanguage)
  check_language(CUDA) # compiles a file: an nvcc that refuses the host's compiler is found here
  if(NOT CMAKE_CUDA_COMPILER)
    set(${missing} "$ENV{CUDACXX} does not compile (CMakeFiles/ says why)" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --version OUTPUT_VARIABLE version)
  string(REGEX MATCH "release ([0-9.]+)" version "${version}")
  if(CMAKE_MATCH_1 VERSION_LESS FASTWM_CUDA_OLDEST)
    set(${missing} "${CMAKE_CUDA_COMPILER} is ${CMAKE_MATCH_1}, expected ${FASTWM_CUDA_OLDEST} or newer" PARENT_SCOPE)
    return()
  endif()
  set(${missing} "" PARENT_SCOPE)
endfunction()

if(NOT FASTWM_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "FASTWM_CUDA is '${FASTWM_CUDA}', expected AUTO, ON or OFF")
elseif(FASTWM_CUDA STREQUAL "OFF")
  set(missing "FASTWM_CUDA is OFF")
else()
  fastwm_find_nvcc(missing)
endif()
if(missing AND FASTWM_CUDA STREQUAL "ON")
  message(FATAL_ERROR "fastwm._cuda cannot be built: ${missing}")
elseif(missing)
  message(STATUS "fastwm is built without fastwm._cuda: ${missing}")
  return()
endif()

set(CMAKE_CUDA_ARCHITECTURES "${FASTWM_CUDA_ARCHITECTURES}")
enable_language(CUDA)
message(STATUS "fastwm._cuda with ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")

file(GLOB sources CONFIGURE_DEPENDS csrc/cuda/*.cu)
# The same bits as on the CPU: no multiplication is contracted with an addition that the source did not fuse.
set_source_files_properties(csrc/cuda/cem_sample.cu csrc/cuda/cem_update.cu PROPERTIES COMPILE_OPTIONS -fmad=false)
pybind11_add_module(_cuda MODULE csrc/cuda/bind.cpp ${sources})
target_include_directories(_cuda PRIVATE csrc)
target_include_directories(_cuda SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
string(REPLACE ";" " " architectures "${CMAKE_CUDA_ARCHITECTURES}")
target_compile_definitions(_cuda PRIVATE FASTWM_CUDA_ARCHITECTURES="${architectures}")
target_compile_options(_cuda PRIVATE
  "$<$<COMPILE_LANGUAGE:CUDA>:-lineinfo;-Xptxas=-warn-spills;-Xcompiler=-Wall,-Wextra>"
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra>")
set_target_properties(_cuda PROPERTIES
  LINKER_LANGUAGE CUDA # which links the CUDA runtime
  CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden)
target_link_options(_cuda PRIVATE -static-libstdc++ -static-libgcc)
install(TARGETS _cuda LIBRARY DESTINATION fastwm)

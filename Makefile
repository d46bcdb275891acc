# Everything a developer or CI runs. Each target sets up what it needs; a repeated run only does what changed.
#   make demo    train a world model from pixels and plan with it        make test    all tests but the peers'
# An install is editable: edits of Python files count at once, edits of C++ files on the next `make`.

PYTHON ?= python3
# The one place that names the torch to develop with: a plain `torch` may bring gigabytes of CUDA. The library takes any torch
# that pyproject.toml allows. The peers' torch is the one that torchvision's wheels on the package index are built for.
TORCH ?= torch==2.13.0
PEERS_TORCH ?= torch==2.14.1 torchvision==0.29.1
# Its metadata asks for Python 3.12 and another triton; it runs the versions here (CONTRIBUTING.md).
TTSEM ?= ttsem==0.1.0

VENV := .venv
PEERS := .venv-peers
WHEEL := .venv-wheel
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt cmake/cuda.cmake fastwm/__init__.py $(wildcard csrc/*.h csrc/*/*)
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
BUILD_TOOLS := scikit-build-core pybind11 cmake ninja
PYTEST_ARGS ?=
BENCH_ARGS ?=
LADDER_ARGS ?=

# What needs a package of its own: other projects' data, environments and engines.
EXTRAS := lance,pusht,dm-control,ray,video,jax,gpu-test
EXTRA_TESTS := $(patsubst %,tests/test_%.py,simulated readers cache damaged damaged_lerobot data_info evaluation_workers gymnasium function docs_integrations)

.PHONY: help install demo test test-gpu test-extras test-peers test-wheel lint format wheel bench clean

help:
	@echo 'make demo        train a world model from pixels, plan with it, write runs/demo/report.html'
	@echo 'make test        all tests but the peers and the GPU (PYTEST_ARGS="-k rollout" for some)'
	@echo 'make test-gpu    the kernels of the GPU, proven without one (LADDER_ARGS="--rung device" on a GPU; 1 GB)'
	@echo 'make test-extras data and environments of other projects, with their packages; nothing may be skipped'
	@echo 'make test-peers  parity with stable-worldmodel, in an environment of its own (gigabytes)'
	@echo 'make test-wheel  build a wheel, install it in a clean environment without a compiler, run it'
	@echo 'make lint        ruff, mypy, clang-format; `make format` rewrites'
	@echo 'make bench       measure, beside every peer, in their environment (BENCH_ARGS="rollout --quick" for a look)'
	@echo 'make wheel       dist/fastwm-*.whl'
	@echo 'make install     .venv alone        make clean   remove environments and build outputs'

install: $(VENV)/installed

demo: $(VENV)/installed
	$(BIN)/fastwm demo

test: $(VENV)/installed
	$(BIN)/pytest -m "not peers and not gpu" $(PYTEST_ARGS)

test-gpu: $(VENV)/gpu
	$(BIN)/python tests/gpu/ladder.py $(LADDER_ARGS)

# Pictures of MuJoCo without a display: EGL, or MUJOCO_GL=osmesa.
test-extras: $(VENV)/extras
	MUJOCO_GL=$${MUJOCO_GL:-egl} $(BIN)/pytest -m "not peers" --nothing-skipped $(EXTRA_TESTS) $(PYTEST_ARGS)

test-peers: $(PEERS)/installed
	$(PEERS)/bin/pytest -m peers $(PYTEST_ARGS)

lint: $(VENV)/linters
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

format: $(VENV)/linters
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

bench: $(PEERS)/measured
	$(PEERS)/bin/python -m bench.run $(BENCH_ARGS)

wheel: $(VENV)/installed
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls -l dist

# A compiler that fails proves that none is used.
test-wheel: wheel $(VENV)/linters
	rm -rf $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python $(PIP_INSTALL) $(TORCH)
	CC=false CXX=false $(WHEEL)/bin/python $(PIP_INSTALL) --only-binary :all: pytest dist/*.whl
	$(WHEEL)/bin/fastwm info
	$(WHEEL)/bin/pytest tests/test_wheel.py
	$(BIN)/auditwheel show dist/*.whl
	rm -rf $(WHEEL)

clean:
	rm -rf $(VENV) $(PEERS) $(WHEEL) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# ---- environments: a file in each says what was installed, and when ---------------------------------------------------

$(VENV)/torch: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "fastwm needs Python 3.10 or newer")'
	@command -v $${CXX:-c++} >/dev/null || { echo 'fastwm needs a C++17 compiler: install g++ or clang++' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) $(TORCH) $(BUILD_TOOLS)
	@touch $@

$(VENV)/installed: $(VENV)/torch $(SOURCES)
	$(BIN)/python $(PIP_INSTALL) --no-build-isolation --editable '.[test]'
	@touch $@

# nvcc comes from pip where PATH has none.
$(VENV)/gpu: $(VENV)/torch $(SOURCES)
	command -v nvcc >/dev/null || FASTWM_CUDA=OFF $(BIN)/python $(PIP_INSTALL) --no-build-isolation --editable '.[cuda-build]'
	FASTWM_CUDA=ON $(BIN)/python $(PIP_INSTALL) --no-build-isolation --editable '.[test,gpu-test]'
	$(BIN)/python $(PIP_INSTALL) --no-deps --ignore-requires-python $(TTSEM)
	@touch $(VENV)/installed $@

$(VENV)/extras: $(VENV)/installed
	$(BIN)/python $(PIP_INSTALL) --no-build-isolation --editable '.[test,$(EXTRAS)]'
	@touch $@

$(VENV)/linters: $(VENV)/installed
	$(BIN)/python $(PIP_INSTALL) --no-build-isolation --editable '.[test,lint]'
	@touch $@

$(PEERS)/torch: Makefile
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python $(PIP_INSTALL) $(PEERS_TORCH) $(BUILD_TOOLS)
	@touch $@

$(PEERS)/installed: $(PEERS)/torch $(SOURCES)
	$(PEERS)/bin/python $(PIP_INSTALL) --no-build-isolation --editable '.[test,peers]'
	@touch $@

$(PEERS)/measured: $(PEERS)/installed
	$(PEERS)/bin/python $(PIP_INSTALL) --no-build-isolation --editable '.[test,peers,bench]'
	@touch $@

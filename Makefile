# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench fuzz soak sanitize clean

demo: $(READY)
	$(BIN)/python examples/sentiment/classify.py --demo

# A worker more than two cores have: many tests wait for other processes, or for a time-out.
test: $(READY)
	$(BIN)/python -m pytest -n 3

lint: $(READY)
	$(BIN)/ruff format --check srcompile passes runtime examples tests
	$(BIN)/ruff check srcompile passes runtime examples tests
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python tests/bench/kernels.py
	$(BIN)/python tests/bench/imports.py

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz --seconds $(or $(FUZZ_SECONDS),600) $(FUZZ_TARGETS)

soak: $(READY)
	$(BIN)/python tests/bench/kills.py
	$(BIN)/python tests/bench/soak.py

# Beside the normal install: -S and -P leave it and this folder out, so that only these kernels load.
# Where there is no memory, C++ raises an exception, and the sanitizer ends the process.
sanitize: $(READY)
	CXX="$(CXX)" CXXFLAGS="-g -fsanitize=address,undefined -fno-sanitize-recover=all" \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps \
	  --target build/sanitize .
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 SRCOMPILE_KERNELS=native \
	  PYTHONPATH="build/sanitize:$$(echo $(VENV)/lib/python3*/site-packages)" \
	  $(BIN)/python -S -P -m pytest --import-mode=append \
	  -k "not without_memory" tests/kernels && \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 SRCOMPILE_KERNELS=native \
	  PYTHONPATH="build/sanitize:$$(pwd):$$(echo $(VENV)/lib/python3*/site-packages)" \
	  $(BIN)/python -S -P -m tests.fuzz program variant material \
	  --no-limit --seconds $(or $(SANITIZE_SECONDS),120)

$(READY): pyproject.toml constraints.txt runtime/native/CMakeLists.txt $(wildcard runtime/native/src/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[compiler,dev]'
	touch $@

clean:
	rm -rf $(VENV) build out

# Everything a developer types. `make help` lists it. Nothing outside this
# folder is written: Python tools live in .venv, Rust's output in target, the
# marks of what is up to date in .venv/.made, and an interpreter without a
# global lock, if one has to be built, in .free-threaded.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
CARGO ?= cargo
PREEMPTIONS ?= 2
SECONDS_A_MODEL ?= 10

VENV := .venv
BIN := $(VENV)/bin
MARKS := $(VENV)/.made
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
unexport PYTHONPATH PYTHONHOME

RUST_SOURCES := Cargo.toml $(wildcard Cargo.lock) $(shell find rust -name '*.rs' -o -name Cargo.toml)
TEST_CRATES := -p pagefrag -p pagefrag-tests
FEATURES := --features pagefrag/bytes
# Tests in release form need its arithmetic and its optimiser, not its slow link.
TARGET := $(or $(CARGO_TARGET_DIR),target)
QUICK_LINK := CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_TARGET_DIR=$(TARGET)/quick

.PHONY: help
help: ## list what there is to type
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- set up -----------------------------------------------------------------

$(MARKS)/venv: requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@mkdir -p $(MARKS) && touch $@

$(MARKS)/module: $(MARKS)/venv pyproject.toml $(RUST_SOURCES)
	$(BIN)/maturin develop --release --locked --quiet
	@mkdir -p $(MARKS) && touch $@

.PHONY: develop
develop: $(MARKS)/module ## build the Python module into .venv

# --- the main job -----------------------------------------------------------

.PHONY: demo
demo: $(MARKS)/module ## receive a million datagrams, check every byte, print the table
	$(BIN)/python -m pagefrag demo $(ARGS)

# --- tests ------------------------------------------------------------------

# Side by side runs what takes one processor for most of its time; each is shown when it is over.
.PHONY: test
test: lint $(MARKS)/module ## all tests and lints
	$(MAKE) --jobs=2 --output-sync=target test-rs test-py loom-quick
	$(MAKE) test-traces

# rustdoc looks for make's other jobs, which cargo hides from it, and warns when it is told of any.
.PHONY: test-rs
test-rs: $(MARKS)/venv ## Rust: debug, release, documentation
	$(CARGO) test --locked $(TEST_CRATES) $(FEATURES) --lib --tests
	$(QUICK_LINK) $(CARGO) test --locked $(TEST_CRATES) $(FEATURES) --lib --tests --release
	MAKEFLAGS= $(CARGO) test --locked $(TEST_CRATES) $(FEATURES) --doc
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps -p pagefrag $(FEATURES)

.PHONY: test-py
test-py: $(MARKS)/module ## Python: pytest, types, stubs against the module
	$(BIN)/pytest
	$(BIN)/mypy --strict -p pagefrag
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/stubtest pagefrag --allowlist tests/python/stubtest.txt --ignore-unused-allowlist

.PHONY: test-traces
TRACE := $(TARGET)/quick/release/trace
FAULTS_LIBRARY := $(TARGET)/quick/release/libpagefrag_faults.so
EXECUTORS := LD_PRELOAD=$(abspath $(FAULTS_LIBRARY)) $(BIN)/python tests/campaigns/traces.py
STARVED := LD_PRELOAD=$(abspath $(FAULTS_LIBRARY)) $(BIN)/python tests/campaigns/starved.py
.PHONY: trace-programs
trace-programs: $(MARKS)/module
	$(QUICK_LINK) $(CARGO) build --locked --release -p pagefrag-tests --bin trace
	$(QUICK_LINK) $(CARGO) build --locked --release -p pagefrag-faults

test-traces: trace-programs ## both languages and both models run the same traces: equal logs, byte for byte
	$(EXECUTORS) replay $(TRACE) tests/traces/corpus
	$(EXECUTORS) compare $(TRACE) 1 300 100
	$(STARVED) $(wildcard tests/traces/corpus/[0-3]*.trace tests/traces/corpus/packets*.trace)

.PHONY: lint
lint: $(MARKS)/venv ## layout and lints of both languages
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check
	$(CARGO) clippy --locked --workspace --all-targets $(FEATURES) -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: format
format: $(MARKS)/venv ## let the tools lay everything out
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# --- proofs and measurements ------------------------------------------------

.PHONY: loom
loom: $(MARKS)/venv ## every concurrency model, in full
	LOOM_MAX_PREEMPTIONS=3 $(NOTED) "make loom" -- $(BIN)/python tests/run_models.py

.PHONY: loom-quick
loom-quick: ## every concurrency model, few preemptions, a few seconds each
	LOOM_MAX_PREEMPTIONS=$(PREEMPTIONS) LOOM_MAX_DURATION=$(SECONDS_A_MODEL) $(PYTHON) tests/run_models.py

# Campaigns run for as long as they are given; LEDGER=docs/assurance.md adds their lines to it.
LEDGER ?=
export PAGEFRAG_LEDGER := $(LEDGER)
NOTED = $(BIN)/python tests/campaigns/ledger.py

.PHONY: stress
STRESS := $(TARGET)/release/stress
SECONDS_A_STORY ?= 120
stress: $(MARKS)/venv ## every byte compared: two threads, thread lives, 32 threads; SECONDS_A_STORY=120
	$(CARGO) build --locked --release -p pagefrag-tests --bin stress
	$(NOTED) "make stress (ring)" -- $(STRESS) ring 2_000_000_000 $(SECONDS_A_STORY)
	$(NOTED) "make stress (lives)" -- $(STRESS) lives 1_000_000 $(SECONDS_A_STORY)
	$(NOTED) "make stress (exchange)" -- $(STRESS) exchange 1_000_000_000 $(SECONDS_A_STORY)
	$(NOTED) "make stress (stale)" -- $(STRESS) stale 10_000_000 $(SECONDS_A_STORY)

.PHONY: forks
FORKS ?= 10000
forks: $(MARKS)/module ## fork while eight threads are busy, FORKS=10000 times
	$(NOTED) "make forks FORKS=$(FORKS)" -- $(BIN)/python tests/campaigns/forks.py $(FORKS)

.PHONY: fuzz
SEED ?= 1000000
TRACES ?= 10000
FUZZ_SECONDS ?= 300
fuzz: fuzz-random fuzz-swarm fuzz-rust fuzz-python ## all fuzzers, FUZZ_SECONDS=300 each; SEED and TRACES=10000 of 200 steps

.PHONY: fuzz-random
fuzz-random: trace-programs ## random traces in four executors
	$(NOTED) "make fuzz SEED=$(SEED) TRACES=$(TRACES)" -- env $(EXECUTORS) compare $(TRACE) $(SEED) $(TRACES) 200

# A slice may run for up to 80 minutes: SWARM_SECONDS=4800. Its seeds are its own unless told. The
# threads of a trace take turns, so each job has one core: to wake a thread on another costs more.
SWARM := $(TARGET)/release/swarm
SWARM_SECONDS ?= 60
JOBS ?= 1
.PHONY: fuzz-swarm
fuzz-swarm: trace-programs ## short traces by the million, core and package against the model; SWARM_SECONDS=60 JOBS=1 SWARM_SEED=
	$(CARGO) build --locked --release -p pagefrag-tests --bin swarm
	seed=$${SWARM_SEED:-$$($(NOTED) seed docs/assurance.md)}; \
	cores=($$($(BIN)/python -c 'import os; print(*sorted(os.sched_getaffinity(0)))')); \
	many="1000000000000 $(SWARM_SECONDS) tests/traces/corpus"; \
	for language in rust python; do \
		if [ $$language = rust ]; then runs='$(SWARM) run'; else runs='$(BIN)/python tests/campaigns/swarm.py $(SWARM)'; fi; \
		jobs=(); \
		for ((job = 0; job < $(JOBS); job++)); do \
			core=$${cores[job % $${#cores[@]}]}; \
			$(NOTED) "make fuzz-swarm ($$language)" -- taskset -c $$core env LD_PRELOAD=$(abspath $(FAULTS_LIBRARY)) $$runs $$((seed + job * 100000000000)) $$many & \
			jobs+=($$!); \
		done; \
		for job in "$${jobs[@]}"; do wait $$job; done; \
	done

.PHONY: sums
sums: $(MARKS)/venv ## what the campaigns of executions came to so far, all slices together
	@$(NOTED) sum docs/assurance.md

# libFuzzer comes as C++ source; its counters need no flag of another compiler.
GUIDED := $(BIN)/python tests/campaigns/guided.py
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares
FUZZ_TARGET := $(TARGET)/fuzz
HOST = $(shell rustc -vV | sed -n 's/host: //p')
.PHONY: fuzz-rust
fuzz-rust: trace-programs ## libFuzzer: the core against its model, names of senders, control messages
ifeq ($(shell command -v c++ >/dev/null && echo yes),yes)
	RUSTFLAGS='$(FUZZ_FLAGS)' $(CARGO) build --locked --release --manifest-path tests/fuzz/Cargo.toml --target $(HOST) --target-dir $(FUZZ_TARGET)
	$(NOTED) "make fuzz-rust (traces)" -- env LD_PRELOAD=$(abspath $(FAULTS_LIBRARY)) $(GUIDED) "core against model" $(FUZZ_SECONDS) -- $(FUZZ_TARGET)/$(HOST)/release/traces -max_len=1204 -- tests/traces/corpus
	$(NOTED) "make fuzz-rust (names)" -- $(GUIDED) "names of senders" $(FUZZ_SECONDS) -- $(FUZZ_TARGET)/$(HOST)/release/names -max_len=64
	$(NOTED) "make fuzz-rust (notes)" -- $(GUIDED) "control messages" $(FUZZ_SECONDS) -- $(FUZZ_TARGET)/$(HOST)/release/notes -max_len=256
else
	@echo 'left out: libFuzzer needs a C++ compiler to build'
endif

$(MARKS)/atheris: $(MARKS)/module requirements-fuzz.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r requirements-fuzz.txt
	@touch $@

# The package in the folder $(1), with the module that was built in $(2).
define package
	rm -rf $(1)
	mkdir -p $(1)
	cp -r python/pagefrag $(1)/pagefrag
	rm -f $(1)/pagefrag/_pagefrag*.so
	cp $(2)/lib_pagefrag.so $(1)/pagefrag/_pagefrag.so
endef

# For atheris the module has counters of its edges and the sanitizer; both need atheris' library,
# which is preloaded. Counting needs a choice of passes that RUSTC_BOOTSTRAP opens, as below. Where
# memory came from is not noted: that took five sixths of the time.
COUNTED := $(TARGET)/fuzz-python
COUNTED_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Zsanitizer=address -Zexternal-clangrt --cfg pagefrag_asan
WITH_FUZZER = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/asan_with_fuzzer.so
COUNTED_PYTHON = env LD_PRELOAD="$(WITH_FUZZER) $(abspath $(FAULTS_LIBRARY))" ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:malloc_context_size=0:quarantine_size_mb=16 \
	PYTHONPATH=$(abspath $(COUNTED)/package) $(BIN)/python tests/campaigns/fuzz_python.py
.PHONY: fuzz-python
fuzz-python: trace-programs $(MARKS)/atheris ## a state machine, and atheris: the package against its model, capture files, pickles
	RUSTC_BOOTSTRAP=1 $(QUICK_LINK) CARGO_TARGET_DIR=$(COUNTED) RUSTFLAGS='$(COUNTED_FLAGS)' $(CARGO) build --locked --release --target $(HOST) -p pagefrag-python
	$(call package,$(COUNTED)/package,$(COUNTED)/$(HOST)/release)
	$(NOTED) "make fuzz-python (states)" -- $(BIN)/python tests/campaigns/states.py $(FUZZ_SECONDS)
	$(NOTED) "make fuzz-python (traces)" -- $(GUIDED) "package against model" $(FUZZ_SECONDS) --native -- $(COUNTED_PYTHON) traces -max_len=804
	$(NOTED) "make fuzz-python (captures)" -- $(GUIDED) "capture files" $(FUZZ_SECONDS) --native -- $(COUNTED_PYTHON) captures -max_len=804
	$(NOTED) "make fuzz-python (pickles)" -- $(GUIDED) "states of pickled batches" $(FUZZ_SECONDS) --native -- $(COUNTED_PYTHON) pickles -max_len=400

.PHONY: faults
FAULT_SECONDS ?= 120
faults: trace-programs ## calls to the system, and memory of objects, fail once and for good; FAULT_SECONDS=120
	$(NOTED) "make faults FAULT_SECONDS=$(FAULT_SECONDS)" -- env $(EXECUTORS) faults $(TRACE) $(FAULT_SECONDS) tests/traces/corpus
	$(NOTED) "make faults (objects)" -- env $(STARVED) --seconds $(FAULT_SECONDS) tests/traces/corpus

# The sanitizers are unstable options, which RUSTC_BOOTSTRAP opens in the stable compiler. They have
# folders of their own; --target keeps build scripts as they are.
SANITIZE_SECONDS ?= 20
STORIES := ring lives exchange stale
ASAN_CARGO := RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(TARGET)/asan RUSTFLAGS='-Zsanitizer=address --cfg pagefrag_asan' $(CARGO)
ASAN = $(TARGET)/asan/$(HOST)/debug
TSAN = $(TARGET)/tsan/$(HOST)/release
PLANTED := $(BIN)/python tests/sanitize/planted.py
SUITE := $(BIN)/python tests/sanitize/suite.py
# Random programs are short under a sanitizer: what counts is each road, not each size.
FEWER := PAGEFRAG_STRESS=0.1 PROPTEST_CASES=32
.PHONY: sanitize
sanitize: sanitize-address sanitize-python sanitize-threads ## what nobody may touch is touched by nobody; SANITIZE_SECONDS=20 a story

# Left out is what measures: resident memory and instructions, the sanitizer's own included, and,
# with many millions of steps, how much is held. So are the test that writes over every byte of a
# page, as no user may, and the one that leaks on purpose: the sanitizer reports both.
MEASURES := net_idle promises_of_speed pinning
WATCHED := --lib $(addprefix --test ,$(filter-out $(MEASURES),$(basename $(notdir $(wildcard tests/rust/*.rs)))))
.PHONY: sanitize-address
sanitize-address: $(MARKS)/venv ## its half with AddressSanitizer: free bytes are nobody's
	$(ASAN_CARGO) build --locked --target $(HOST) -p pagefrag-tests --bin faults --bin stress
	$(NOTED) "make sanitize-address (planted)" -- $(PLANTED) address $(ASAN)/faults
	$(NOTED) "make sanitize-address (tests)" -- $(SUITE) env $(FEWER) $(ASAN_CARGO) test --locked --target $(HOST) $(TEST_CRATES) $(FEATURES) $(WATCHED) -- --skip scribbling_over_all_user_bytes --skip a_leaked_reservation
	for story in $(STORIES); do $(NOTED) "make sanitize-address ($$story)" -- $(ASAN)/stress $$story 2_000_000_000 $(SANITIZE_SECONDS); done

# The module with the sanitizer in it, beside the package's Python files. The interpreter is as it
# is: the sanitizer's own library is preloaded, gcc's, which speaks to LLVM's code as its own does.
ASAN_MODULE := $(TARGET)/asan-python
ASAN_LIBRARY = $(realpath $(shell command -v gcc >/dev/null && gcc -print-file-name=libasan.so))
ASAN_PYTHON = env LD_PRELOAD=$(ASAN_LIBRARY) ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	PYTHONMALLOC=malloc PYTHONPATH=$(abspath $(ASAN_MODULE)/package) $(BIN)/python
ASAN_SUBJECTS := fragment shared cache reservation skb batch ring ring_forks landed lifecycle numpy arrow pickle traces
.PHONY: sanitize-python
sanitize-python: $(MARKS)/module ## its half in Python: a view that outlives its fragment dies
ifneq ($(ASAN_LIBRARY),)
	RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(ASAN_MODULE) RUSTFLAGS='-Zsanitizer=address -Zexternal-clangrt --cfg pagefrag_asan' $(CARGO) build --locked --target $(HOST) -p pagefrag-python
	$(call package,$(ASAN_MODULE)/package,$(ASAN_MODULE)/$(HOST)/debug)
	$(NOTED) "make sanitize-python (planted)" -- $(PLANTED) address $(ASAN_PYTHON) tests/sanitize/stale.py
	$(NOTED) "make sanitize-python (tests)" -- $(SUITE) $(ASAN_PYTHON) -m pytest -q -p no:cacheprovider $(ASAN_SUBJECTS:%=tests/python/test_%.py)
else
	@echo 'left out: the sanitizer in Python needs the library that comes with gcc (libasan)'
endif

# A standard library that is not watched itself orders things unseen, and correct programs look
# wrong. So it is built along, from its source (`rustup component add rust-src`).
STD_SOURCE = $(shell $${RUSTC:-rustc} --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock
TSAN_CARGO := RUSTC_BOOTSTRAP=1 $(QUICK_LINK) CARGO_TARGET_DIR=$(TARGET)/tsan RUSTFLAGS=-Zsanitizer=thread $(CARGO)
.PHONY: sanitize-threads
sanitize-threads: $(MARKS)/venv ## its half with ThreadSanitizer, where the sources of std are
ifneq ($(wildcard $(STD_SOURCE)),)
	$(TSAN_CARGO) build --locked --release -Zbuild-std --target $(HOST) -p pagefrag-tests --bin faults --bin stress
	$(NOTED) "make sanitize-threads (planted)" -- $(PLANTED) thread $(TSAN)/faults
	$(NOTED) "make sanitize-threads (tests)" -- $(SUITE) env $(FEWER) $(TSAN_CARGO) test --locked --release -Zbuild-std --target $(HOST) -p pagefrag-tests --test threads --test way_back
	for story in $(STORIES); do $(NOTED) "make sanitize-threads ($$story)" -- env TSAN_OPTIONS=halt_on_error=1 $(TSAN)/stress $$story 2_000_000_000 $(SANITIZE_SECONDS); done
else
	@echo 'left out: ThreadSanitizer needs the source of the standard library (rustup component add rust-src)'
endif

# BUGS=3..10 or BUGS=ring,Acquire takes a part of the table; with a LEDGER the page is written too.
.PHONY: planted
BUGS ?=
BUG_SECONDS ?= 7200
planted: $(MARKS)/module ## bugs of tests/planted and weakened atomic orders: which test finds each; BUGS=1..9
	$(NOTED) "make planted$(if $(BUGS), BUGS=$(BUGS))" -- $(BIN)/python tests/planted/run.py --only '$(BUGS)' --seconds $(BUG_SECONDS) $(if $(LEDGER),--write docs/planted.md)

.PHONY: coverage
coverage: $(MARKS)/module ## lines that no test runs, of core, binding and package, and why; ARGS=--again tells them anew
	$(NOTED) "make coverage$(if $(ARGS), ARGS=$(ARGS))" -- $(BIN)/python tests/campaigns/lines.py $(ARGS) $(if $(LEDGER),--write docs/coverage.md)

.PHONY: campaign-rings
campaign-rings: $(MARKS)/module ## a million datagrams on IPv4, IPv6, GRO on, off; each checked
	$(NOTED) "make campaign-rings" -- $(BIN)/python tests/campaign_rings.py $(ARGS)

# FREE_THREADED_PYTHON names an interpreter; without it one is looked for, or built in .free-threaded.
.PHONY: test-free-threaded
test-free-threaded: $(MARKS)/venv ## the Python tests without a global lock: CPython 3.14t, found or built
	$(NOTED) "make test-free-threaded" -- $(BIN)/python tests/campaigns/free_threaded.py $(ARGS)

.PHONY: test-wheel
test-wheel: $(MARKS)/venv ## both kinds of wheel, each installed where nothing else is, and used
	$(NOTED) "make test-wheel" -- $(BIN)/python tests/campaigns/wheel.py

# Written down only on request: `make bench RECORD=benches/record`.
RECORD ?=
export PAGEFRAG_RECORD := $(RECORD)
# Some rivals take a C++ compiler and make; without these they are left out.
HAVE := $(shell command -v c++ >/dev/null && command -v cc >/dev/null && command -v make >/dev/null && echo yes)
RIVALS := $(if $(HAVE),--features rivals)
BENCH := $(CARGO) bench --locked -p pagefrag-benches $(RIVALS)

.PHONY: bench
bench: $(MARKS)/module ## every bench, rivals beside, a quarter of an hour; PCAP=capture, RECORD=benches/record keeps it
	@$(if $(HAVE),,echo 'left out: what needs a C++ compiler and make to build')
	$(BENCH)
	$(BIN)/python benches/python/bench_fragment.py

.PHONY: bench-quick
bench-quick: $(MARKS)/module ## every bench for a moment, three minutes: a first impression, never a figure
	PAGEFRAG_QUICK=1 PAGEFRAG_RECORD= $(BENCH)
	PAGEFRAG_RECORD= $(BIN)/python benches/python/bench_fragment.py --quick

.PHONY: bench-instructions
bench-instructions: $(MARKS)/venv ## instructions of each operation by callgrind, and the fast paths' assembly
	$(BIN)/python benches/python/instructions.py $(ARGS)

.PHONY: bench-docs
bench-docs: $(MARKS)/venv ## draw docs/benchmarks.md and the README's table from the newest records
	$(BIN)/python benches/python/draw.py

.PHONY: bench-rings
bench-rings: $(MARKS)/module ## receive UDP with rings, sockets, asyncio, uvloop and without Python; ARGS=--quick
	$(BIN)/python benches/python/bench_rings.py $(ARGS)

.PHONY: bench-wheel
bench-wheel: $(MARKS)/venv ## time to build the core and to import, size of the wheel; abi3 beside
	$(NOTED) "make bench-wheel" -- $(BIN)/python benches/python/bench_wheel.py

# --- documentation ----------------------------------------------------------

.PHONY: docs
docs: $(MARKS)/module ## build the documentation into docs/_build, warnings are errors
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env docs docs/_build

# --- packaging --------------------------------------------------------------

.PHONY: wheel
wheel: $(MARKS)/venv ## build a wheel and a source archive into dist
	$(BIN)/maturin build --release --locked --out dist
	$(BIN)/maturin sdist --out dist

.PHONY: clean
clean: ## remove everything that make made
	rm -rf $(VENV) .free-threaded target dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find python -name '_pagefrag*.so' -delete

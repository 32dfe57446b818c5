# `make help` lists the targets. Environments are made once and reused until what they are made of
# changes; the first target takes some minutes longer, because it downloads and installs torch.

PYTHON ?= python3
PIP := -m pip --quiet --disable-pip-version-check
VENV := .venv
LEGACY := .venv-legacy
NATIVE := ondevice/native
COMPILED := setup.py $(wildcard $(NATIVE)/sources.txt $(NATIVE)/*/sources.txt $(NATIVE)/*/*.[ch])
# The oldest supported environment: numpy 1.26 with tflite-runtime, whose last release has wheels
# for Python 3.11 and below only.
HAS_LEGACY := $(shell $(PYTHON) -c 'import sys; print(int(sys.version_info[:2] == (3, 11)))')

# Each station of a model's path, without what trains for long: what to run before a commit.
CHECKED := tests/test_docs.py tests/test_packaging.py tests/runtime tests/native tests/commands/test_commands.py \
	tests/models/data tests/models/test_checkpoint.py tests/models/layers/test_embeddings.py \
	tests/converters/lowering tests/converters/targets/test_merge.py

.PHONY: help android check demo test test-legacy fuzz lint lock soak runners runner-here web reference pictures clean

help: ## this list (times on two cores, environment installed)
	@sed -nE 's/^([a-z][a-z-]*):[^#]*## (.*)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s '|'

demo: $(VENV)/.installed ## train, compress, convert, run, measure: under three minutes
	$(VENV)/bin/ondevice demo

check: $(VENV)/.installed ## a subset of the tests: about two minutes
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile $(CHECKED)

test: $(VENV)/.installed ## all tests, on the oldest supported packages too: tens of minutes
	rm -rf build/legacy
	mkdir -p build/legacy
	ONDEVICE_LEGACY_DIR=build/legacy $(VENV)/bin/python -m pytest -n 2 --dist loadfile --ignore tests/legacy
	$(MAKE) --no-print-directory test-legacy

ifeq ($(HAS_LEGACY),1)
test-legacy: $(LEGACY)/.installed
	ONDEVICE_LEGACY_DIR=build/legacy $(LEGACY)/bin/python -m pytest tests/runtime tests/commands tests/legacy
else
test-legacy:
	@echo "skipped: numpy 1.26 with tflite-runtime needs Python 3.11, this is $$($(PYTHON) -V)"
endif

# Eight fuzzers, one after the other: libFuzzer, changed plans of five models, changed .tflite files by
# two seeds. A finding names its seed: `make fuzz FUZZ_SEED=...` makes the same files again. Then
# properties on other examples than those of every other run.
PROPERTIES := tests/native/test_parity.py tests/native/test_bfloat.py tests/runtime/test_lookup.py \
	tests/runtime/test_codecs.py tests/runtime/test_levels.py tests/models/layers/test_embeddings.py
FUZZ_SECONDS ?= 210
FUZZ_SEED ?= $(shell date +%s)

fuzz: $(VENV)/.installed ## the fuzzers of `make test` for half an hour instead of two minutes
	ONDEVICE_FUZZ_SECONDS=$(FUZZ_SECONDS) ONDEVICE_FUZZ_SEED=$(FUZZ_SEED) $(VENV)/bin/python -m pytest \
		tests/hostile/test_fuzz.py tests/hostile/test_engines_agree.py tests/hostile/test_tflite_fuzz.py $(PROPERTIES) \
		-o junit_family=xunit1 --junit-xml build/fuzz.xml
	@grep -o 'name="fuzzed" value="[^"]*"' build/fuzz.xml

soak: $(VENV)/.installed ## a model file is replaced under load for an hour; processes killed, power losses and faults of disks, many
	ONDEVICE_SOAK_SECONDS=1800 ONDEVICE_SWITCHES=10000 $(VENV)/bin/python -m pytest tests/runtime/test_live.py -k go_on -o junit_family=xunit1 --junit-xml build/soak.xml
	ONDEVICE_SWITCHES=100000 $(VENV)/bin/python -m pytest tests/native/test_live.py -o junit_family=xunit1 --junit-xml build/soak-c.xml
	ONDEVICE_SWITCHES=5000 ONDEVICE_KILLS=200 $(VENV)/bin/python -m pytest tests/android/test_library.py tests/android/test_updates.py \
		-k "junit_on or random_moments" -o junit_family=xunit1 --junit-xml build/soak-java.xml
	ONDEVICE_CRASH_COMMANDS="train convert bench" ONDEVICE_CRASH_SAMPLES=100 ONDEVICE_FAULT_SAMPLES=0 \
		$(VENV)/bin/python -m pytest tests/hostile/test_crash.py tests/hostile/test_faults.py tests/android/test_crash.py \
		-o junit_family=xunit1 --junit-xml build/soak-crash.xml
	ONDEVICE_CRASH_COMMANDS=compress ONDEVICE_CRASH_SAMPLES=10 $(VENV)/bin/python -m pytest tests/hostile/test_crash.py \
		-o junit_family=xunit1 --junit-xml build/soak-crash-compress.xml

# Static programs that measure on Android phones and boards without Python.
RUNNERS := build/runners
RUNNER_FLAGS := -std=c11 -O2 -ftree-vectorize -ffp-contract=off \
	-fno-math-errno -Wall -Wextra -Werror -static -s -I$(NATIVE) -I$(NATIVE)/include
GCC_FLAGS := -fvect-cost-model=dynamic # clang refuses it
RUNNER_SOURCES := $(addprefix $(NATIVE)/,runner/runner.c runner/posix.c platform/posix.c platform/mapped.c $(shell grep -v '^\#' $(NATIVE)/sources.txt))

runners: ## static programs that measure on ARM boards and phones: seconds
	mkdir -p $(RUNNERS)
	aarch64-linux-gnu-gcc $(RUNNER_FLAGS) $(GCC_FLAGS) $(RUNNER_SOURCES) -o $(RUNNERS)/ondevice-runner-arm64
	arm-linux-gnueabihf-gcc $(RUNNER_FLAGS) $(GCC_FLAGS) $(RUNNER_SOURCES) -o $(RUNNERS)/ondevice-runner-armv7

runner-here:
	mkdir -p $(RUNNERS)
	$(CC) $(RUNNER_FLAGS) $(if $(findstring clang,$(shell $(CC) --version)),,$(GCC_FLAGS)) $(RUNNER_SOURCES) -o $(RUNNERS)/ondevice-runner-$$(uname -m)

web: ## the engine for browsers and Node, as web/dist: seconds (clang and wasm-ld, or ziglang)
	$(PYTHON) web/build.py

# The Android library and demo app, with Debian's tools instead of an SDK. The app takes the model of
# `make demo` where there is one, else one that is trained in seconds.
ANDROID := build/android
ANDROID_MODEL := $(or $(wildcard demo-out/model.odm),$(ANDROID)/model/model.odm)

android: $(ANDROID)/assets/catalogue.json ## the Android library and demo app without an SDK: a minute
	$(VENV)/bin/python android_demo/build_apk.py --assets $(ANDROID)/assets

$(ANDROID)/assets/catalogue.json: $(ANDROID_MODEL) $(VENV)/.installed
	$(VENV)/bin/ondevice export-android $< --out $(@D)

$(ANDROID)/model/model.odm: | $(VENV)/.installed
	$(VENV)/bin/ondevice train --max-rows 60000 --epochs 1 --out $(ANDROID)/checkpoint --force
	$(VENV)/bin/ondevice convert $(ANDROID)/checkpoint --tables q4 --dense q8 --targets odm --out $(@D) --force

# Types are checked in a regular install: mypy cannot follow an editable one.
lint: $(VENV)/.installed ## style and types: half a minute
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -rf build/types build/lib
	ONDEVICE_PURE=1 $(VENV)/bin/python $(PIP) install --no-deps --target build/types .
	cd build/types && for system in linux win32 darwin; do \
	  ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache/$$system --platform $$system -p ondevice || exit 1; \
	done

reference: $(VENV)/.installed ## the Python interface as pages in build/reference: seconds
	$(VENV)/bin/python docs/make_reference.py build/reference

pictures: $(VENV)/.installed ## the README's pictures, of a demo that has run; needs Chromium: seconds
	$(VENV)/bin/python docs/make_pictures.py demo-out docs

lock: ## write the lock files anew, after a change of pyproject.toml or constraints: a minute
	$(PYTHON) .ci/lock.py

clean: ## remove environments and what was built
	rm -rf $(VENV) $(LEGACY) build dist demo-out *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Packages come by the hashes of the lock files, which .ci/lock.py writes; then the project alone.
# Of torch the CPU build, where pip finds one; else the usual one with its gigabytes of CUDA.
LOCKED := install --no-deps --require-hashes -r

$(VENV)/.installed: pyproject.toml requirements.lock requirements-cpu.lock requirements-cuda.lock $(COMPILED)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) $(LOCKED) requirements.lock
	$(VENV)/bin/python $(PIP) $(LOCKED) requirements-cpu.lock || $(VENV)/bin/python $(PIP) $(LOCKED) requirements-cuda.lock
	$(VENV)/bin/python $(PIP) install --no-deps --no-build-isolation -e .
	touch $@

$(LEGACY)/.installed: pyproject.toml requirements-legacy.lock $(COMPILED)
	test -d $(LEGACY) || $(PYTHON) -m venv $(LEGACY)
	$(LEGACY)/bin/python $(PIP) $(LOCKED) requirements-legacy.lock
	$(LEGACY)/bin/python $(PIP) install --no-deps --no-build-isolation -e .
	touch $@

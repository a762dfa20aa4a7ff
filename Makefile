# `make` targets; `make demo` and `make test` need only Python 3.11+, git and make.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install demo test check lint format bench parity-l train-embedded clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## create .venv and install scanseg with its development tools

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; set PYTHON=python3.12, say"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing (a few minutes the first time) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## segment real photos that ship with scikit-image and scikit-learn
	$(BIN)/python -m scanseg.cli.demo --output demo

test: install  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: install  ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train-embedded: install  ## train the shipped head: DATA=dir TEACHERS=dir WORK=dir [RECIPE=default|permissive] [HOLD_OUT=true|false]
	@test -n "$(DATA)" -a -n "$(TEACHERS)" -a -n "$(WORK)" || { echo "make: set DATA, TEACHERS and WORK (model_cards/embedded_head.md)"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ai-edge-litert
	$(BIN)/python -m scanseg.training.embedded_head --data "$(DATA)" --teachers "$(TEACHERS)" --work "$(WORK)" --recipe "$(or $(RECIPE),default)" --hold_out "$(or $(HOLD_OUT),true)"

bench: install  ## time and memory of the embedded preset; with WEIGHTS=folder also SCAN stage by stage
	$(BIN)/python benchmarks/embedded_latency.py
	@test -z "$(WEIGHTS)" || $(BIN)/python benchmarks/stages.py --weights "$(WEIGHTS)"

parity-l: install  ## ViT-L at full size, filled and converted: map and numbers (12 GiB, 8 GB disk, minutes)
	$(BIN)/python benchmarks/parity_l.py --output parity_l

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache demo parity_l build dist

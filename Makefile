# `make` targets; `make demo` and `make test` need only Python 3.11+, git and make.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

DOCS_SITE ?= site

.PHONY: help install demo examples test check lint format docs bench bench-batch nouns fuzz endurance serve \
	parity-l train-embedded train-affinity train-masks study clean

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

examples: install  ## the scripts of examples/, results in examples_output/
	@for name in first_steps score_my_predictions own_clip; do \
	  echo "== $$name"; $(BIN)/python examples/$$name.py --output examples_output/$$name || exit 1; done

test: install  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: install  ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install  ## build the documentation site into site/, strictly and offline
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir "$(DOCS_SITE)"

format: install  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

serve: install  ## a web page and a REST interface on this machine (ARGS="--port 8001")
	$(BIN)/python -m scanseg serve $(ARGS)

HEADS := 0:2200 1:800# seed:steps of the heads that make the ensemble: two or more, seeds that differ

train-embedded: install  ## train the two heads, join them, and train the affinities: DATA=dir TEACHERS=dir WORK=dir [RECIPE=default|permissive] [HOLD_OUT=true|false] [HEADS="seed:steps ..."] [THREADS=2]
	@test -n "$(DATA)" -a -n "$(TEACHERS)" -a -n "$(WORK)" || { echo "make: set DATA, TEACHERS and WORK (model_cards/embedded_head.md)"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ai-edge-litert
	for run in $(HEADS); do \
	    $(BIN)/python -m scanseg.training.embedded_head --data "$(DATA)" --teachers "$(TEACHERS)" --work "$(WORK)" \
	        --recipe "$(or $(RECIPE),default)" --hold_out "$(or $(HOLD_OUT),true)" --threads $(or $(THREADS),2) \
	        --seed $${run%:*} --steps $${run#*:} --name head_$${run%:*}.safetensors || exit 1; \
	done
	$(BIN)/python -m scanseg.training.head_ensemble --output "$(WORK)/embedded_head.safetensors" \
	    --heads "[$$(for run in $(HEADS); do echo "$(WORK)/head_$${run%:*}.safetensors"; done | paste -sd, -)]"
	$(MAKE) train-affinity

train-affinity: install  ## train which cells show the same kind of thing: DATA=dir TEACHERS=dir WORK=dir [RECIPE=...] [HOLD_OUT=...] [THREADS=2]
	@test -n "$(DATA)" -a -n "$(TEACHERS)" -a -n "$(WORK)" || { echo "make: set DATA, TEACHERS and WORK (model_cards/embedded_head.md)"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ai-edge-litert
	$(BIN)/python -m scanseg.training.embedded_affinity --data "$(DATA)" --teachers "$(TEACHERS)" --work "$(WORK)" \
	    --recipe "$(or $(RECIPE),default)" --hold_out "$(or $(HOLD_OUT),true)" --threads $(or $(THREADS),2)

train-masks: install  ## train the mask decoder of the embedded tower: DATA=dir WORK=dir [RECIPE=...] [HOLD_OUT=...]
	@test -n "$(DATA)" -a -n "$(WORK)" || { echo "make: set DATA and WORK (docs/results/embedded_head.md)"; exit 2; }
	$(BIN)/python -m scanseg.training.embedded_masks --data "$(DATA)" --work "$(WORK)" --recipe "$(or $(RECIPE),default)" --hold_out "$(or $(HOLD_OUT),true)"

study: install  ## SCAN's tables on the packaged towers: DATA=dir WORK=dir
	$(BIN)/python benchmarks/held_out_folder.py --data "$(DATA)" --output "$(WORK)/held_out"
	for suite in table3 table4 table6 table7 table8 withheld; do \
	    $(BIN)/scanseg ablate mini_$$suite --root "$(WORK)/held_out" --output "$(WORK)/pieces" \
	        --set trainer.set.data="$(DATA)" trainer.set.work="$(WORK)" || exit 1; \
	    for kind in md json png; do cp "$(WORK)/pieces/table.$$kind" "$(WORK)/$$suite.$$kind" || exit 1; done; \
	done

bench: install  ## time and memory of the embedded preset; with WEIGHTS=folder also SCAN stage by stage
	$(BIN)/python benchmarks/embedded_latency.py
	@test -z "$(WEIGHTS)" || $(BIN)/python benchmarks/stages.py --weights "$(WEIGHTS)"

bench-batch: install  ## batch jobs on your photos, PHOTOS=folder: overhead, two processes, 50 kills
	@test -n "$(PHOTOS)" || { echo "make: set PHOTOS to a folder with 300 photos"; exit 2; }
	$(BIN)/python benchmarks/batch_throughput.py --photos "$(PHOTOS)"
	$(BIN)/python benchmarks/batch_kills.py --photos "$(PHOTOS)"

nouns: install  ## build the shipped list of nouns again (WordNet's files: WORDNET=folder)
	$(BIN)/python benchmarks/build_nouns.py $(if $(WORDNET),--wordnet "$(WORDNET)")

fuzz: install  ## hostile inputs over every parser: SECONDS=60 SEED=0, or INPUTS=10000
	$(BIN)/python benchmarks/fuzz_parsers.py --seed $(or $(SEED),0) $(if $(INPUTS),--inputs $(INPUTS),--seconds $(or $(SECONDS),60))

endurance: install  ## memory, file handles and temporary files over thousands of photos
	$(BIN)/python benchmarks/endurance.py

parity-l: install  ## ViT-L at full size, filled and converted: map and numbers (12 GiB, 8 GB disk, minutes)
	$(BIN)/python benchmarks/parity_l.py --output parity_l

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache demo examples_output parity_l build dist site

# Every target makes .venv when it is missing and reuses it when it is there. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# LANG=zh counts when it is typed after make; the shell's own LANG does not.
IN := $(if $(filter command,$(firstword $(origin LANG))),$(if $(filter zh%,$(LANG)),zh,en),en)
export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help demo lab test check build lessons bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*##/ {printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST) | sort

$(STAMP): pyproject.toml constraints.txt
	@echo "== setting up $(VENV) (first time: a few minutes, about 1.5 GB)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@sh scripts/install.sh $(BIN)/python
	@touch $@

demo: $(STAMP) ## fine-tune a real encoder on real text and show by how much it helped; `make demo LANG=zh` in Chinese
	@$(BIN)/retrieval-lab demo --lang $(IN)

lab: $(STAMP) ## open JupyterLab at the first lesson
	@$(BIN)/jupyter lab notebooks/$(IN)/00_start_here.ipynb

# Two workers of one thread each, a file stays on one: the lessons run beside the unit tests.
test: $(STAMP) ## unit and reference tests, and every lesson in profile SMOKE
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP) ## style, lessons, generated data, corpus
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python notebooks/lessons.py check
	@$(BIN)/python data/build.py --check
	@$(BIN)/retrieval-lab corpus-check --quick
	@$(BIN)/python benchmarks/readme.py --check

build: $(STAMP) ## write the generated files: data, notebooks, lesson tables
	@$(BIN)/python data/build.py
	@$(BIN)/python notebooks/lessons.py build
	@$(BIN)/python benchmarks/readme.py

lessons: $(STAMP) ## run every lesson in profile FAST, both languages, and keep the outputs
	@$(BIN)/python notebooks/lessons.py run --profile fast --lang both

bench: $(STAMP) ## measure the tables in benchmarks/
	@$(BIN)/python benchmarks/run.py

clean: ## remove .venv and runs/
	rm -rf $(VENV) runs

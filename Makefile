# Every target sets up what it needs: a virtual environment in .venv with the exact versions of constraints.txt.
PYTHON ?= python3
MODEL ?= kmer:4
READS ?= $(if $(findstring kmer,$(MODEL)),20000,1000)
DEMO ?= demo
EXTRACT_OPTIONS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
OPENVINO := .venv/openvino
OLDEST := .venv-oldest/bin

.PHONY: setup demo test test-oldest bench lint clean

setup: $(INSTALLED)

$(INSTALLED): setup.cfg constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test,bench,export,finetune,track]"
	touch $(INSTALLED)

# Simulated reads of two clades, 4 % positive, grouped by genome -> embeddings -> head, table and plots in $(DEMO)/.
demo: setup
	$(BIN)/python -m benchmarks.simulate $(DEMO) --reads $(READS)
	$(BIN)/embedcache extract --model $(MODEL) --input $(DEMO)/reads.fa.gz --metadata $(DEMO)/labels.tsv \
	  --output $(DEMO)/reads-$(subst :,,$(notdir $(MODEL))).zarr $(EXTRACT_OPTIONS)
	$(BIN)/heads train --features $(DEMO)/reads-$(subst :,,$(notdir $(MODEL))).zarr \
	  --output $(DEMO)/run-$(subst :,,$(notdir $(MODEL))) --overwrite

# Each of the two workers takes one half in order, so that what a folder's tests share is made once; then the rest of the
# other's. The slowest tests are named at the end.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations=15

# What meets checkpoints, tokenizers, the hub and files, with the oldest libraries that setup.cfg promises.
test-oldest: .venv-oldest/.installed
	OMP_NUM_THREADS=1 $(OLDEST)/python -m pytest -n 2 tests/encoders tests/sources tests/cells tests/exchange \
	  tests/test_extract*.py tests/test_verify.py tests/test_cli.py

.venv-oldest/.installed: setup.cfg constraints-oldest.txt pyproject.toml
	test -x $(OLDEST)/python || $(PYTHON) -m venv .venv-oldest
	$(OLDEST)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt "torch==2.13.0"
	$(OLDEST)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt \
	  --editable . pytest pytest-xdist dnaio xarray
	touch $@

bench: setup $(OPENVINO)/.installed
	$(BIN)/python -m benchmarks --output bench_results/bench.json

# One peer of the benchmark; its packages lie in a folder of their own, which no other program sees. Where they cannot be
# had, the benchmark runs without it and says so.
$(OPENVINO)/.installed: benchmarks/openvino.txt | $(INSTALLED)
	rm -rf $(OPENVINO)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(OPENVINO) \
	  --requirement benchmarks/openvino.txt && touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-oldest demo bench_results runs *.egg-info

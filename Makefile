# Every target sets up what it needs: a virtual environment in .venv with the exact versions of constraints.txt.
PYTHON ?= python3
MODEL ?= kmer:4
READS ?= $(if $(findstring kmer,$(MODEL)),20000,1000)
DEMO ?= demo
EXTRACT_OPTIONS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: setup demo test bench lint clean

setup: $(INSTALLED)

$(INSTALLED): setup.cfg constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test,bench]"
	touch $(INSTALLED)

# Simulated reads of two clades, 4 % positive, grouped by genome -> embeddings -> head, table and plots in $(DEMO)/.
demo: setup
	$(BIN)/python -m benchmarks.simulate $(DEMO) --reads $(READS)
	$(BIN)/embedcache extract --model $(MODEL) --input $(DEMO)/reads.fa.gz --metadata $(DEMO)/labels.tsv \
	  --output $(DEMO)/reads-$(subst :,,$(notdir $(MODEL))).zarr $(EXTRACT_OPTIONS)
	$(BIN)/heads train --features $(DEMO)/reads-$(subst :,,$(notdir $(MODEL))).zarr \
	  --output $(DEMO)/run-$(subst :,,$(notdir $(MODEL))) --overwrite

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

bench: setup
	$(BIN)/python -m benchmarks --output bench_results/bench.json

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv demo bench_results runs *.egg-info

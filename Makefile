# `make help` lists the targets. PYTHON=/path/to/python3 chooses the Python, CONSTRAINTS=FILE the pins.
SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench clean everything
export PYTHON CONSTRAINTS

ARGS ?=
DEMO_RUNS := runs/timeseries/ttm-demo

help: ## show this list
	@echo "domainfm: make TARGET"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-10s %s\n", $$1, $$2}'

everything:
	@.ci/environment dev,all

install: everything ## make .venv with everything: all extras and the development tools
	@echo "Ready: .venv/bin/dfm --help"

demo: ## pre-train a small time-series model, forecast unseen series, show how far it beats the naive forecast
	@.ci/environment timeseries
	@.venv/bin/dfm timeseries fit --config ttm/demo
	@run=$$(ls -td $(DEMO_RUNS)/*/ 2>/dev/null | head -n 1); \
	if [ -z "$$run" ]; then echo "The demo left no run under $(DEMO_RUNS)." >&2; exit 1; fi; \
	echo; echo "The picture, the report and the checkpoints of this run:"; \
	find "$$run" -name wandb -prune -o \( -name '*.png' -o -name '*.ckpt' -o -name report.html \) -print | sort | sed 's/^/  /'

test: everything ## run every test but the slow ones on all cores; ARGS="-k word" chooses, ARGS="-m slow" runs the slow ones
	@.venv/bin/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal $(ARGS)

lint: everything ## ruff over all code, mypy over the core
	@.venv/bin/ruff check .
	@.venv/bin/mypy core

bench: everything ## the benchmarks: memory of a large Parquet, speed beside granite-tsfm, transformers, TerraTorch and microsoft-aurora (about 20 minutes)
	@.venv/bin/python tests/benchmarks/series_memory.py
	@.ci/peer granite
	@PYTHONPATH=. .bench/granite/bin/python tests/benchmarks/ttm_granite.py $(ARGS)
	@.ci/peer transformers
	@PYTHONPATH=. .bench/transformers/bin/python tests/benchmarks/scot_swinv2.py $(ARGS)
	@PYTHONPATH=. .bench/transformers/bin/python tests/benchmarks/scot_swinv2.py --scaling $(ARGS)
	@PYTHONPATH=. .bench/transformers/bin/python tests/benchmarks/llama_transformers.py $(ARGS)
	@.ci/peer terratorch
	@PYTHONPATH=. .bench/terratorch/bin/python tests/benchmarks/prithvi_terratorch.py $(ARGS)
	@.ci/peer aurora
	@PYTHONPATH=. .bench/aurora/bin/python tests/benchmarks/aurora_microsoft.py $(ARGS)

clean: ## remove caches and build outputs; runs/ and .venv stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	@find apps core tests -name __pycache__ -type d -prune -exec rm -rf {} +

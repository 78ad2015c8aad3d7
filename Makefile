# `make demo` and `make test` do all set-up themselves (tools/setup.sh) and are safe to repeat.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: help setup demo test lint pytest rcheck clean

# One thread: on a busy machine with few cores two can be many times slower than one.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export RETICULATE_PYTHON := $(CURDIR)/.venv/bin/python
export LC_ALL := C.UTF-8
PY := .venv/bin/python
RSCRIPT := R_LIBS=$(CURDIR)/build/R-library Rscript

help:
	@echo "make demo    fit sleepstudy and InstEval from Python and from R, beside lme4"
	echo "make test    lint, types, pytest, testthat, R CMD check"
	echo "make lint    ruff, mypy and lintr only"
	echo "make clean   remove build outputs (.venv stays; delete it by hand)"

setup:
	@bash tools/setup.sh

demo: setup
	@bash tools/r-package.sh install
	$(PY) demo/demo.py
	$(RSCRIPT) demo/demo.R

test: setup lint pytest rcheck
	@echo "pytest: $$(tail -n 1 build/pytest.log)"
	echo "make test: everything passed"

lint: setup
	@echo "== ruff, mypy, lintr"
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	Rscript -e 'found <- lintr::lint_package(); print(found); quit(status = as.integer(length(found) > 0))'

pytest: setup
	@echo "== pytest"
	mkdir -p build
	PYLMERNN_REQUIRE_R=1 $(PY) -m pytest 2>&1 | tee build/pytest.log

rcheck: setup
	@echo "== R CMD check"
	bash tools/r-package.sh check

clean:
	@rm -rf build dist demo/output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# `make demo` and `make test` set everything up in .venv first; nothing outside this folder is written.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all coverage check format docs clean

.venv/installed: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or later is needed; make PYTHON=python3.11 …')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: .venv/installed
	$(BIN)/python train.py fit --config configs/miniature.yaml

# What is marked `slow` repeats a quicker test with another method, data set, page or launcher.
test: .venv/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow"

test-all: .venv/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# Apart from `test`: tracing makes it half as long again. sysmon, the quick way, is there from Python 3.12 on.
coverage: .venv/installed
	COVERAGE_CORE=sysmon $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --cov --cov-report=term --cov-fail-under=90

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/installed
	$(BIN)/sphinx-build -W --keep-going -j auto docs build/docs

clean:
	rm -rf .venv runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache

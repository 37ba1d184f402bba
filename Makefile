# Two commands do all the set-up: `make demo` and `make test`. Each makes .venv itself when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check bench docs screenshots clean

demo: $(READY)
	$(BIN)/ignite-launch --nproc 2 examples/digits.py

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(PIP) --editable '.[bench]'
	$(BIN)/python -m benchmarks

# Needs Chromium and its driver, as the browser tests do.
screenshots: $(READY)
	$(BIN)/python -m tools.screenshots docs/images
	$(BIN)/python examples/plot_schedules.py

docs: $(READY)
	$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

clean:
	rm -rf $(VENV) build dist site *.egg-info runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*

$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[plot,examples,dev]'
	touch $@

# Start with `make demo` or `make test`. Each creates .venv itself if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt
READY := $(VENV)/ready
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

.PHONY: demo test test-shaken test-lowest test-newest test-loggers combinations soak attack check bench gpu gpu-dry-run docs screenshots dist clean

demo: $(READY)
	$(BIN)/ignite-launch --nproc 2 examples/digits.py

# The number of test processes. Four keep two cores busy, because many tests wait for processes that they start.
JOBS ?= 4

test: $(READY)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# Five runs with other seeds, kernels, threads and orders; takes five times as long.
test-shaken: $(READY)
	JOBS=$(JOBS) $(BIN)/python -m tools.shaken

# The oldest versions that setup.cfg admits, and the newest. Unless the index is CPU-only, each downloads gigabytes.
test-lowest:
	mkdir -p build
	$(PYTHON) -m tools.lowest > build/lowest.txt
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=build/lowest.txt

test-newest:
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=/dev/null

# What other loggers store: MLflow, WandB and ClearML, without a server, and tensorboardX.
test-loggers:
	$(MAKE) .venv-loggers/ready VENV=.venv-loggers
	.venv-loggers/bin/python -m pip install --quiet mlflow wandb clearml tensorboardX
	.venv-loggers/bin/python -m pytest tests/ignite_tips/tensorboard/test_installed_loggers.py tests/e2e/test_other_packages.py

# Every kind of parallelism with every clipper, against one process; writes the table in docs/combinations.md. Then
# compiled code, by torch's default compiler.
combinations: $(READY)
	$(BIN)/python -W ignore -m tests.e2e.parallel docs/combinations.md
	$(BIN)/python -m pytest --compiler inductor --timeout 600 tests/ignite_tips/core/test_compiled_training.py

soak: $(READY)
	$(BIN)/python -m tests.e2e.soak --kills $(or $(KILLS),100) --seed $(or $(SEED),0)

# Random signals to random processes of launches, strange environments, damaged event files and lost nodes, which need root
# and `ip`; takes about 30 minutes. tests/e2e/test_attack.py is its short version.
attack: $(READY)
	$(BIN)/python -m tests.e2e.attack --seed $(or $(SEED),0)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tools.snippets build/snippets
	$(BIN)/mypy ignite_tips launch examples build/snippets
	$(BIN)/basedpyright --pythonpath $(BIN)/python --level error build/snippets

bench: $(READY)
	$(PIP) --editable . --group bench
	$(BIN)/python -m benchmarks

# Everything that needs a GPU; writes benchmarks/RESULTS-GPU.md. With WHEELS=folder it runs in $(PYTHON)'s own
# environment plus the folder's wheels, without a network.
gpu:
	$(PYTHON) -m tools.gpu --check
ifdef WHEELS
	$(PYTHON) -m tools.gpu --wheels $(WHEELS)
else
	$(MAKE) $(READY)
	$(PIP) --editable . --group bench
	$(BIN)/python -m tools.gpu
endif

# The same without a GPU, on a substitute; writes to build/gpu/.
gpu-dry-run: $(READY)
	$(PIP) --editable . --group bench
	$(BIN)/python -m tools.gpu --dry-run

# Needs Chromium and its driver, as the browser tests do.
screenshots: $(READY)
	$(BIN)/python -m tools.screenshots docs/images
	$(BIN)/python examples/plot_schedules.py

docs: $(READY)
	$(PIP) --editable . --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

# The sdist, and the wheel built from it, checked as a package index checks them.
dist: $(READY)
	$(PIP) --group release
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist

clean:
	rm -rf .venv* build dist site *.egg-info runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*

$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=25.1' # the first that knows --group
	$(PIP) --editable '.[plot,examples]' --group dev
	touch $@

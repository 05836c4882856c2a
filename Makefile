# `make` lists the targets. Everything happens in .venv, which is made on first
# use and brought up to date whenever the list of dependencies changes.

# Where `make train` writes its runs.
RUNS ?= runs

# The interpreter to build .venv with: the first of these that is 3.11 to 3.13
# and really runs (a version manager's shim may be there and fail).
PYTHONS ?= python3.13 python3.12 python3.11 python3 $(call newest,3.11)
# Wherever they are on this machine, for the shell to look for.
oldest = $$(.ci/pythons | head -n 1 | cut -d' ' -f2-)
newest = $$(.ci/pythons $1 | tail -n 1 | cut -d' ' -f2-)

VENV := .venv
PYTHON := $(VENV)/bin/python
# The worlds of `make test-matrix`: the lower bounds of setup.cfg, on the oldest
# Python; whatever is newest, on the newest one (they differ below 3.12).
LOWEST := .venv-lowest
NEWEST := .venv-newest
# A worker per core, at most four: each has 8 emulated devices of its own.
PYTEST := -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile \
  --no-loadscope-reorder
PIP := -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help train test test-all test-long test-faults test-matrix \
  test-lowest test-newest lint clean

help:  ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

train: $(VENV)/.train  ## Train a base and its epinet on digits into RUNS=runs.
	@$(PYTHON) train.py --config=configs/digits_base.py \
	  --workdir="$(RUNS)/digits_base"
	@$(PYTHON) train.py --config=configs/digits_epinet.py \
	  --workdir="$(RUNS)/digits_epinet"

test: lint  ## Lint, check the types, run the tests.
	@$(PYTHON) $(PYTEST)

test-all: lint  ## The same with the slow tests, but for what test-long has.
	@$(PYTHON) $(PYTEST) --slow -m 'not long'

test-long: $(VENV)/.test  ## The longest: further cases of what others show.
	@$(PYTHON) $(PYTEST) --slow -m long

test-faults: $(VENV)/.test  ## Many faults: FLAX_ENN_{KILLS,SIGNALS,FUZZ,FLIPS,READ_ERRORS,PAIRS,SEED}=N.
	@FLAX_ENN_KILLS=$${FLAX_ENN_KILLS:-100} \
	  FLAX_ENN_SIGNALS=$${FLAX_ENN_SIGNALS:-50} \
	  FLAX_ENN_FUZZ=$${FLAX_ENN_FUZZ:-1500} \
	  FLAX_ENN_FLIPS=$${FLAX_ENN_FLIPS:-200} \
	  FLAX_ENN_READ_ERRORS=$${FLAX_ENN_READ_ERRORS:-50} \
	  FLAX_ENN_PAIRS=$${FLAX_ENN_PAIRS:-20} \
	  $(PYTHON) $(PYTEST) -m slow tests/faults tests/test_resume.py \
	  tests/test_signals.py tests/test_processes.py \
	  tests/test_compilation_cache.py tests/checkpoints/test_haiku_pickle.py

test-matrix: test-lowest test-newest  ## Run the tests on the oldest and the newest dependencies.

test-lowest: $(LOWEST)/.test  ## Run the tests on the oldest dependencies allowed.
	@$(LOWEST)/bin/python $(PYTEST) $(TESTS)

test-newest:  ## Run the tests on the newest ones (Python 3.12 or 3.13).
	@if [ -z "$(call newest,3.12)" ]; then \
	  echo 'SKIPPED: test-newest; .ci/pythons finds no Python 3.12 or 3.13'; \
	else \
	  make --no-print-directory $(NEWEST)/newest && \
	  $(NEWEST)/bin/python $(PYTEST) $(TESTS); \
	fi

lint: $(VENV)/.test  ## Lint and check the types only.
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m pyrefly check --python-interpreter-path $(PYTHON) \
	  --progress-bar no

clean:  ## Remove the virtual environments and caches, but no runs.
	@rm -rf $(VENV) $(LOWEST) $(NEWEST) build *.egg-info .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp .EXTRA says that `flax_enn[EXTRA]` is installed as setup.cfg has it.
$(VENV)/.train $(VENV)/.test: $(VENV)/.%: setup.cfg pyproject.toml $(VENV)/.venv
	@echo 'Installing flax_enn[$*] and its dependencies (some minutes)'
	@$(PYTHON) $(PIP) install -e '.[$*]'
	@touch $@

$(LOWEST)/.test: setup.cfg pyproject.toml $(LOWEST)/.venv
	@echo 'Installing the oldest dependencies of flax_enn[test] (some minutes)'
	@$(LOWEST)/bin/python $(PIP) install uv
	@$(LOWEST)/bin/python -m uv --quiet pip install --resolution lowest-direct \
	  --python $(LOWEST)/bin/python -e '.[test]'
	@touch $@

# Always looked for: what is newest today is not tomorrow.
.PHONY: $(NEWEST)/newest
$(NEWEST)/newest: $(NEWEST)/.venv
	@echo 'Installing the newest dependencies of flax_enn[test] (some minutes)'
	@$(NEWEST)/bin/python $(PIP) install --upgrade uv
	@$(NEWEST)/bin/python -m uv --quiet pip install --upgrade \
	  --python $(NEWEST)/bin/python -e '.[test]'
	@$(NEWEST)/bin/python -m pip list 2>/dev/null | grep -E '^(jax|flax) '

$(LOWEST)/.venv: PYTHONS = "$(oldest)"
$(NEWEST)/.venv: PYTHONS = "$(call newest,3.12)"

# ensurepip is asked for because some systems ship it apart from venv.
$(VENV)/.venv $(LOWEST)/.venv $(NEWEST)/.venv:
	@for python in $(PYTHONS); do \
	  if "$$python" -c 'import ensurepip, sys, venv; \
	      sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	      >/dev/null 2>&1; then \
	    echo "Making $(@D) with $$("$$python" --version)"; \
	    "$$python" -m venv --clear $(@D) && touch $@; exit; \
	  fi; \
	done; \
	echo 'flax_enn needs Python 3.11, 3.12 or 3.13 with its venv module, and' \
	  'finds none: make train PYTHONS=/path/to/python' >&2; exit 1

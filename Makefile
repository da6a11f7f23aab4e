# The template's own commands. `make` lists them.
.DEFAULT_GOAL := help

# Python 3.11 or newer, from PATH or from pyenv.
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.11 python3.12 python3.13 python3.14 python \
	"$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.1[1-9].*/bin/python; do \
	"$$python" -E -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v "$$python" && break; done)
endif

# Ignore what users have configured for pip and Python: install exactly what is asked for, and see no other packages.
export PIP_USER := 0
export PIP_REQUIRE_VIRTUALENV := 0
unexport PIP_CONSTRAINT PIP_DRY_RUN PIP_NO_DEPS PIP_PREFIX PIP_PYTHON PIP_ROOT PIP_TARGET
unexport PYTHONHOME PYTHONPATH PYTHONSAFEPATH

BIN := .venv/bin
OUTPUT ?= ..

.PHONY: help
help: ## List the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.PHONY: new
new: .venv/requirements ## Ask the questions and render a service into OUTPUT=..; ARGS=--no-input takes the defaults
	$(BIN)/cookiecutter '$(CURDIR)' --output-dir '$(OUTPUT)' $(ARGS)

.PHONY: test
test: .venv/requirements-dev ## Run the tests that need no Docker, in three minutes; ARGS is passed to pytest
	$(BIN)/pytest -m 'not (slow or docker or alone or nightly)' $(ARGS)
	@echo 'make test-all also installs projects, builds and starts their images and stacks, and publishes them.'

.PHONY: test-all
test-all: .venv/requirements-dev ## Run all tests, which needs Docker, and finally those with a deadline on their own; ARGS is passed to pytest
	$(BIN)/pytest -m 'not (alone or nightly)' $(ARGS) || [ $$? -eq 5 ] # 5: ARGS selects no test
	$(BIN)/pytest -m 'alone and not nightly' $(ARGS) --numprocesses=0 || [ $$? -eq 5 ]

.PHONY: lint
lint: .venv/requirements-dev ## Check style and types of the template's own code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: locks
locks: .venv/requirements-dev ## Resolve the rendered services' dependencies; ARGS=--upgrade takes newer versions
	$(BIN)/python scripts/refresh_locks.py $(ARGS)

.PHONY: lock
COMPILE = $(BIN)/uv pip compile --quiet --no-python-downloads --universal --python-version 3.11 --generate-hashes \
	--no-strip-extras --annotation-style line --custom-compile-command 'make lock' pyproject.toml
lock: .venv/requirements-dev ## Resolve pyproject.toml into requirements*.txt; ARGS=--upgrade takes newer versions
	$(COMPILE) $(ARGS) --output-file requirements.txt
	$(COMPILE) $(ARGS) --extra dev --constraint requirements.txt --output-file requirements-dev.txt

.PHONY: refresh
refresh: .venv/requirements-dev ## Take newer dependencies and actions, and print what changes in rendered projects
	@$(BIN)/python scripts/refresh.py

.PHONY: tree
tree: .venv/requirements-dev ## Update the list of rendered files in README.md
	$(BIN)/python -m scripts.tree

.PHONY: pictures
pictures: .venv/requirements-dev ## Record docs/recording.svg and the screenshots from a real run; needs chromium
	$(BIN)/python -m scripts.record

.PHONY: benchmark
benchmark: .venv/requirements-dev ## Compare a rendered service with others, and write README.md's tables and docs/benchmark.*; needs wrk
	$(BIN)/python -m scripts.benchmark $(ARGS)

.PHONY: release
release: ## Prepare a release: VERSION=v1.2.3
	@[ -n '$(PYTHON)' ] || { echo 'make: needs Python 3.11 or newer' >&2; exit 1; }
	@'$(PYTHON)' scripts/release.py '$(VERSION)'

.PHONY: notes
notes: ## Print a version's section of CHANGELOG.md: VERSION=v1.2.3
	@awk '/^## / { found = $$2 == "$(VERSION:v%=%)"; any = any || found; next } found; END { exit !any }' CHANGELOG.md

# One environment for both: rendering only needs cookiecutter, and does not wait for packages that only tests use.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --requirement
.venv/requirements: requirements.txt | .venv/bin/pip
	$(PIP_INSTALL) $<
	@touch $@

# Installed by the uv that is one of them, which takes a tenth of the time.
.venv/requirements-dev: requirements-dev.txt | .venv/bin/pip
	sed -n '/^uv==/,/# via/p' $< | $(PIP_INSTALL) /dev/stdin
	$(BIN)/uv pip install --quiet --require-hashes --python $(BIN)/python --requirement $<
	@touch $@

.venv/bin/pip:
	@[ -n '$(PYTHON)' ] || { echo 'make: needs Python 3.11 or newer' >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments:" \
		"install its venv package, such as python3-venv on Debian and Ubuntu" >&2; exit 1; }
	'$(PYTHON)' -m venv .venv

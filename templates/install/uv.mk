# uv installs into .venv. If the machine has no uv, pip first installs the one in requirements-dev.txt.
BIN := .venv/bin
# The one on PATH, if it runs: a shim of pyenv or asdf may not.
UV := $(or $(shell uv --version > /dev/null 2>&1 && command -v uv),$(BIN)/uv)
{% if cookiecutter.gpu %}
INSTALL_MORE = '$(UV)' pip install --quiet --python $(BIN)/python
{% endif %}

.PHONY: install anew
install: .venv/installed ## Install requirements-dev.txt into .venv
# Created again if its Python does not run: a development container and its host share this directory.
.venv/installed: requirements-dev.txt $(shell $(BIN)/python --version > /dev/null 2>&1 || echo anew)
	@$(BIN)/python --version > /dev/null 2>&1 || rm -rf .venv
ifeq ($(UV),$(BIN)/uv)
	@[ -n '$(PYTHON)' ] || { echo 'make: needs uv, or Python 3.12 or newer' >&2; exit 1; }
	[ -x $(BIN)/python ] || '$(PYTHON)' -m venv .venv
	sed -n '/^uv==/,/# via/p' $< | $(BIN)/python -m pip install --quiet --require-hashes --requirement /dev/stdin
else
	[ -x $(BIN)/python ] || '$(UV)' venv --quiet --python '$(or $(PYTHON),3.12)' .venv
endif
	'$(UV)' pip sync --quiet --require-hashes --python $(BIN)/python $<
	@touch $@

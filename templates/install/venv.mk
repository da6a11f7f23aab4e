# pip installs into .venv. It does not remove packages, so a changed lock file gets a new environment.
BIN := .venv/bin
{% if cookiecutter.gpu %}
INSTALL_MORE = $(BIN)/python -m pip install --quiet --disable-pip-version-check
{% endif %}

.PHONY: install anew
install: .venv/installed ## Install requirements-dev.txt into .venv
# Created again if its Python does not run: a development container and its host share this directory.
.venv/installed: requirements-dev.txt $(shell $(BIN)/python --version > /dev/null 2>&1 || echo anew)
	@[ -n '$(PYTHON)' ] || { echo 'make: needs Python 3.12 or newer' >&2; exit 1; }
	'$(PYTHON)' -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --requirement $<
	@touch $@

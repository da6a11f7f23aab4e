# pip installs into .local, a user site of this project's own, so --break-system-packages breaks nothing. pip does not remove packages,
# so a changed lock file gets a new user site.
BIN := .local/bin
export PYTHONUSERBASE := $(CURDIR)/.local
{% if cookiecutter.gpu %}
INSTALL_MORE = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-script-location --user --break-system-packages
{% endif %}

.PHONY: install anew
install: .local/installed ## Install requirements-dev.txt into .local
# A virtual environment has no user site, so use the Python that it was created from.
.local/installed: BASE = $(shell '$(PYTHON)' -E -c 'import sys; print(sys._base_executable)')
# Created again if its Python does not run: a development container and its host share this directory.
.local/installed: requirements-dev.txt $(shell $(BIN)/python --version > /dev/null 2>&1 || echo anew)
	@[ -n '$(PYTHON)' ] || { echo 'make: needs Python 3.12 or newer' >&2; exit 1; }
	rm -rf .local
	'$(BASE)' -m pip install --quiet --disable-pip-version-check --no-compile --no-warn-script-location \
		--user --break-system-packages --require-hashes --requirement $<
	@mkdir -p $(BIN)
	printf '#!/bin/sh\nPYTHONUSERBASE=$$(cd "$${0%%/*}/.." && pwd) exec "%s" "$$@"\n' '$(BASE)' > $(BIN)/python
	chmod +x $(BIN)/python
	@touch $@

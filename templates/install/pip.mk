# pip, into .local: a user site of this project's own. There it is in nobody's way, so that a Python which the system
# manages may be told to allow it. pip removes nothing, so that a lock which changed gets a new site.
BIN := .local/bin
export PYTHONUSERBASE := $(CURDIR)/.local
{% if cookiecutter.gpu %}
INSTALL_MORE = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-script-location --user --break-system-packages
{% endif %}

.PHONY: install anew
install: .local/installed ## Install what requirements-dev.txt names into .local
# In a virtual environment there is no user site: this is the Python that the environment was made from.
.local/installed: BASE = $(shell '$(PYTHON)' -E -c 'import sys; print(sys._base_executable)')
# Made anew where its Python does not run: a development container and its host share this folder.
.local/installed: requirements-dev.txt $(shell $(BIN)/python --version > /dev/null 2>&1 || echo anew)
	@[ -n '$(PYTHON)' ] || { echo 'make: needs Python 3.12 or newer' >&2; exit 1; }
	rm -rf .local
	'$(BASE)' -m pip install --quiet --disable-pip-version-check --no-compile --no-warn-script-location \
		--user --break-system-packages --require-hashes --requirement $<
	@mkdir -p $(BIN)
	printf '#!/bin/sh\nPYTHONUSERBASE=$$(cd "$${0%%/*}/.." && pwd) exec "%s" "$$@"\n' '$(BASE)' > $(BIN)/python
	chmod +x $(BIN)/python
	@touch $@

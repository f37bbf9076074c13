# make ask     set up .venv and ask the shipped model about a shipped clip
# make test    set up .venv and run the whole test suite
# Both are safe to repeat: what is set up stays until pyproject.toml or constraints.txt changes.

PYTHON   ?= python3
VIDEO    ?= demos/clips/needle.mp4
QUESTION ?= Which digit was on the card?
DEVICES  ?= 4

VENV    := .venv
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: ask test clean

ask: $(VENV)/.installed
	@$(VENV)/bin/ringvision ask "$(VIDEO)" "$(QUESTION)" --devices $(DEVICES)

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest

clean:
	rm -rf $(VENV) build dist

# The stamps are written last, so that an interrupted set-up is taken up again.
$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing ringvision into $(VENV) (once; a minute or two) ..." >&2
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what the tests need into $(VENV) ..." >&2
	@$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON); install Python 3.11 or newer (on Debian and Ubuntu: apt install python3 python3-venv), or say PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version 2>&1) is too old; ringvision needs Python 3.11 or newer: say PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments; install the package python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv (on Debian and Ubuntu: apt install python3-venv) and run make again" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

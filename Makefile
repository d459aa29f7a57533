# make train [ARGS="task=dmc/cheetah_run preset=paper"]   install and train
# make test  [ARGS="-k replay"]                           install and run every test
# make lint | types                                       ruff; pyright

PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1 && command -v $$p && break; done)
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input

.PHONY: train test lint types clean
.DELETE_ON_ERROR:

train: $(BIN)/.installed
	@scripts/install_gl.sh $(BIN)/python
	$(BIN)/curl-rl train $(ARGS)

test: $(BIN)/.installed-dev
	@scripts/install_gl.sh $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal $(ARGS)

lint: $(BIN)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/.installed-dev
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "curl-rl needs Python 3.11 or 3.12 and found neither: install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip' 2>/dev/null \
		|| scripts/apt_install.sh "$$("$(PYTHON)" -c 'import sys; print(f"python3.{sys.version_info[1]}-venv")')"
	"$(PYTHON)" -m venv --clear .venv

$(BIN)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing the packages into .venv (a few minutes the first time)"
	@$(PIP) --editable .
	@touch $@

$(BIN)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "installing the packages and the test tools into .venv (a few minutes the first time)"
	@$(PIP) --editable '.[dev]'
	@touch $(BIN)/.installed $@

clean:
	rm -rf .venv build dist

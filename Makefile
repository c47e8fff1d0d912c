# Plain venv + pip. `make demo` and `make test` set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= dev
# A machine without an NVIDIA driver gets the CPU build of torch, and only where an extra asks for torch at all.
# TORCH=default takes whatever pip finds by itself (so does a machine that gives pip a local folder of wheels).
TORCH ?= $(if $(PIP_FIND_LINKS),default,$(shell command -v nvidia-smi >/dev/null 2>&1 && echo default || echo cpu))
TORCH_INDEX := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)
WANTS_TORCH := $(findstring local,$(EXTRAS))$(findstring hf,$(EXTRAS))$(findstring all,$(EXTRAS))$(findstring dev,$(EXTRAS))

.PHONY: setup demo test check docs clean
setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt hatch_build.py $(wildcard src/fairtrial/nn/ops/*.[ch])
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(if $(WANTS_TORCH),$(TORCH_INDEX)) -e ".[$(EXTRAS)]"
	@command -v bwrap >/dev/null 2>&1 || echo "note: bubblewrap is not installed; see 'fairtrial doctor' for which sandbox is used instead"
	touch $@

demo: setup
	rm -rf runs/demo
	$(BIN)/fairtrial run recipes/fold.toml --set suite.world.n=24 --out runs/demo

test: setup
	$(BIN)/python -m pytest -n 2 tests

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_sizes.py
	$(MAKE) test

docs: setup
	$(BIN)/python scripts/transcripts.py
	$(BIN)/zensical build --clean

clean:
	rm -rf $(VENV) site dist build

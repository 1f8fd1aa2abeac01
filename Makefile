# Each target does all its own set-up; a second call re-uses it and starts in seconds.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test accept bench bench-gpu lint clean
.DELETE_ON_ERROR:

install: $(STAMP) $(VENV)/.samples

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.samples: $(STAMP) tools/fetch_samples.py
	$(BIN)/python tools/fetch_samples.py .samples
	touch $@

demo: install
	$(BIN)/python tools/demo.py demo

test: lint
	$(BIN)/python -m pytest -n 2

lint: install
	$(BIN)/ruff check src tests tools examples benchmarks
	$(BIN)/ruff format --check src tests tools examples benchmarks
	$(BIN)/mypy

accept: install
	$(BIN)/python tools/accept.py accept

bench: install
	$(BIN)/python -m benchmarks.run --full --out docs/benchmarks

bench-gpu: install
	$(BIN)/python -m benchmarks.gpu --out docs/benchmarks-gpu.json

clean:
	rm -rf $(VENV) .samples demo accept .pytest_cache .mypy_cache .ruff_cache

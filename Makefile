# Set-up and everyday commands. Everything runs in .venv, made on first use.
VENV := .venv
PYTHON ?= python3.11
STAMP := $(VENV)/.installed
export PYTHONPATH :=
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint types check bench versitygw clean

$(STAMP): setup.py constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## captioned videos -> bank -> lookup -> a generated clip
	$(VENV)/bin/noisebank demo --out demo

test: $(STAMP)  ## the test suite: two processes, a thread each
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --durations 20

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/mypy

check: lint types test

bench: $(STAMP)  ## one table of ratios, measured in one run
	$(VENV)/bin/python -m benchmarks

versitygw: $(STAMP)  ## an S3 server with conditional puts, for the tests that skip without one (needs Go)
	GOBIN=$(CURDIR)/$(VENV)/bin go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

clean:
	rm -rf demo bench build dist *.egg-info

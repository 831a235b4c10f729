# Set-up and everyday commands. Everything runs in .venv, made on first use.
VENV := .venv
PYTHON ?= python3.11
STAMP := $(VENV)/.installed
ENGINES := $(VENV)/engines
GO_ENGINES := versitygw fake-gcs-server prism
NPM_ENGINES := azurite-blob
JARS := $(ENGINES)/flink/lib
export PYTHONPATH :=
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-engines lint types check bench peers engines $(GO_ENGINES) $(NPM_ENGINES) flink gcp clean

$(STAMP): setup.py constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## captioned videos -> bank -> lookup -> a generated clip
	$(VENV)/bin/noisebank demo --out demo

PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20

test: $(STAMP)  ## the test suite: two processes, a thread each; end-to-end files, the long ones, come first
	$(PYTEST) -m "not engines"

test-engines: $(STAMP)  ## the tests against engines (worker processes, Flink, Prism, a Dataflow service) and object stores
	$(PYTEST) -m engines

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/mypy

check: lint types test test-engines

.venv-peers/.installed: benchmarks/peers.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	touch $@

peers: $(STAMP) .venv-peers/.installed  ## beside video2dataset, autofaiss and a loop over diffusers (needs ffmpeg)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.peers

bench: $(STAMP)  ## one table of ratios, measured in one run
	$(VENV)/bin/python -m benchmarks

# What tests run against, each under the name of its program: object stores, Beam's own runner Prism, and Flink. Add a
# Go or npm package by a line here and its name above; what is missing is skipped by name.
versitygw: PACKAGE := github.com/versity/versitygw/cmd/versitygw@v1.8.0
fake-gcs-server: PACKAGE := github.com/fsouza/fake-gcs-server@v1.56.0
prism: PACKAGE := github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0
azurite-blob: PACKAGE := azurite@3.37.0

engines: $(GO_ENGINES) $(NPM_ENGINES) flink gcp  ## real servers for tests, from package registries (Go, npm, Maven), and Google's clients

$(GO_ENGINES): %: $(ENGINES)/bin/%

$(NPM_ENGINES): %: $(ENGINES)/node_modules/.bin/%

$(GO_ENGINES:%=$(ENGINES)/bin/%):
	GOBIN=$(CURDIR)/$(ENGINES)/bin go install $(PACKAGE)

$(NPM_ENGINES:%=$(ENGINES)/node_modules/.bin/%):
	npm install --silent --no-audit --no-fund --prefix $(ENGINES) $(PACKAGE)

flink: $(JARS)/.fetched

$(JARS)/.fetched: tests/support/flink/pom.xml
	rm -rf $(JARS)
	mvn --quiet --batch-mode --file $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$(JARS)
	touch $@

gcp: $(VENV)/.gcp  ## what describes jobs to Dataflow

$(VENV)/.gcp: $(STAMP)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'apache-beam[gcp]'
	touch $@

clean:
	rm -rf demo bench build dist *.egg-info

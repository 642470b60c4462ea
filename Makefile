# `make app` starts the app, `make test` runs every check. Both make what they need first: a virtual environment in .venv, the
# packages of requirements.txt, for the tests a browser. What is there already is not fetched again, so that a second start
# works without a network.

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin
APP := .venv/.app-installed
DEV := .venv/.dev-installed
PEERS := .venv/.peers-installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable
# Processes of the suite. Each gets one thread, or torch would start one per core in each of them. With a third on two cores the
# suite is no faster, and browser tests run out of time.
WORKERS ?= 2

# The viewer's own JavaScript, without a browser.
SCRIPT_TESTS := $(wildcard tests/viewer_js/*.test.mjs)
NODE_WORKS := node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' 2>/dev/null

.PHONY: app test lint format browser node validators postgresql samples benchmark screenshot help
.DELETE_ON_ERROR:

help:
	@echo "make app         start the app and say its address (PORT=8600 for another port)"
	@echo "make test        every check: style, types, layers, tests, the page in a browser"
	@echo "make lint        style, types and layers only"
	@echo "make format      let ruff format and mend what it can"
	@echo "make samples     draw sample_scans/ again"
	@echo "make benchmark   speed, as ratios in one run"
	@echo "make screenshot  docs/screenshot.png from the real app and a synthetic sample"

app: $(APP)
	@echo "Starting ipfvision; its address follows. Ctrl+C stops it."
	$(BIN)/python -m streamlit run streamlit_app.py $(if $(PORT),--server.port=$(PORT))

test: $(PEERS) browser node validators postgresql lint
	@if $(NODE_WORKS); then node --test $(SCRIPT_TESTS); fi
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

samples: $(APP)
	$(BIN)/python -m ipfvision samples

benchmark: $(PEERS) browser
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.series --slices 30 --memory 20 200
	$(BIN)/python -m benchmarks.viewer

screenshot: $(DEV) browser
	$(BIN)/python -m tests.browser.screenshot docs/screenshot.png

$(BIN)/pip:
	@if [ -z "$(PYTHON)" ]; then \
		echo "ipfvision needs Python 3.11 or newer, and none was found (python3 is $$(python3 --version 2>&1))." >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "ipfvision needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { \
		echo "$(PYTHON) cannot make a virtual environment. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# The headless OpenCV goes in last, by force: requirements.txt says why.
$(APP): requirements.txt | $(BIN)/pip
	$(PIP) install -r requirements.txt
	$(PIP) install --force-reinstall --no-deps "$$(grep -o '^opencv-python-headless[^ ]*' requirements.txt)"
	@$(BIN)/python -c 'import cv2, torch, streamlit'
	@touch $@

$(DEV): requirements-dev.txt $(APP)
	$(PIP) install -r requirements-dev.txt
	@touch $@

# With CI=true missing peers are a failure; elsewhere the tests that compare with them are then skipped.
$(PEERS): requirements-peers.txt $(DEV)
	@if $(PIP) install -r requirements-peers.txt; then touch $@; \
	elif [ "$$CI" = true ]; then echo "The peers of requirements-peers.txt could not be installed." >&2; exit 1; \
	else echo "The peers of requirements-peers.txt could not be installed: the tests that need them will be skipped."; fi

# With CI=true a missing browser is a failure; elsewhere the browser tests are then skipped.
browser: $(DEV)
	@for name in $(BROWSERS); do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "No Chromium found: installing it with apt-get."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium && exit 0; \
	fi; \
	if [ "$$CI" = true ]; then echo "No Chromium or Chrome, and none could be installed." >&2; exit 1; fi; \
	echo "No Chromium or Chrome found: the browser tests will be skipped. To run them, install one of: $(BROWSERS)"

# The tests mock timers, which node has had since 20.
node:
	@if ! command -v node >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "No node found: installing it with apt-get."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs || true; \
	fi; \
	$(NODE_WORKS) && exit 0; \
	if command -v node >/dev/null; then found="node here is $$(node --version)"; else found="there is no node"; fi; \
	if [ "$$CI" = true ]; then echo "The tests of the viewer's JavaScript need Node.js 20 or newer; $$found." >&2; exit 1; fi; \
	echo "The tests of the viewer's JavaScript need Node.js 20 or newer; $$found: they will be skipped."

# Debian keeps initdb out of the path. With CI=true a missing PostgreSQL is a failure; elsewhere its tests are then skipped.
postgresql:
	@if command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "No PostgreSQL found: installing it with apt-get."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql && exit 0; \
	fi; \
	if [ "$$CI" = true ]; then echo "No PostgreSQL, and none could be installed." >&2; exit 1; fi; \
	echo "No PostgreSQL found: reviews will be tested with SQLite only."

# Programs that know nothing of ours check the DICOM that is written. With CI=true missing ones are a failure.
VALIDATORS := dciodvfy dcentvfy dcmdump dsrdump dcm2pnm
VALIDATORS_WORK := for name in $(VALIDATORS); do command -v $$name >/dev/null || exit 1; done
validators:
	@if ! ( $(VALIDATORS_WORK) ) && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "No DICOM validators found: installing dicom3tools and dcmtk with apt-get."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends dicom3tools dcmtk || true; \
	fi; \
	( $(VALIDATORS_WORK) ) && exit 0; \
	if [ "$$CI" = true ]; then echo "No DICOM validators (dicom3tools, dcmtk), and none could be installed." >&2; exit 1; fi; \
	echo "No DICOM validators found: their tests will be skipped. To run them, install dicom3tools and dcmtk."

# Two commands, and nothing before them but Python >= 3.11 and make: `make demo` and `make test`.
# `make help` lists all.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
NO_CHROMIUM := printf '\n\#\#\#\#\#  browser suite NOT RUN: no Chromium here, and none could be installed  \#\#\#\#\#\n\n'

.PHONY: help demo test test-slow coverage gpu-check browser lint docs wrap openapi wheel install hooks clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: install ## Audits the bundled poisoned dataset, start to finish
	$(BIN)/finetooth demo

test: install ## Everything but the slow proofs
	@sh scripts/chromium.sh & chromium=$$!; $(MAKE) --no-print-directory lint; linted=$$?; \
	if wait $$chromium; then marked="not slow"; else marked="not slow and not browser"; fi; \
	[ $$linted = 0 ] || exit $$linted; \
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "$$marked"; tested=$$?; \
	[ "$$marked" = "not slow" ] || $(NO_CHROMIUM); exit $$tested

test-slow: install ## The proofs that take many minutes
	$(BIN)/pytest -m slow
	$(BIN)/pytest -m hypothesis --hypothesis-profile=exploring

coverage: install ## Lines that the tests reach, by package
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not browser" \
	  --cov --cov-report=json:build/coverage.json
	@$(BIN)/python scripts/coverage_by_package.py build/coverage.json

gpu-check: install ## The acceptance on a GPU, at most 10 minutes
	$(BIN)/python -m benchmarks.gpu_check

browser: install ## The dashboard in a real Chromium
	@if sh scripts/chromium.sh; then $(BIN)/pytest -m "browser and not slow"; else $(NO_CHROMIUM); fi

openapi: install ## Renews docs/openapi.json and the problem codes in docs/api.md
	$(BIN)/python scripts/openapi.py

docs: install ## The documentation as a site, in build/site
	$(BIN)/zensical build --strict --clean --config-file mkdocs.yml

wrap: install ## Wraps the paragraphs of docs/ at 120 columns
	$(BIN)/python scripts/wrap_documents.py

wheel: install ## The package as a wheel, in dist
	rm -rf build/lib build/bdist.* dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

lint: install ## Style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(INSTALLED) ## The virtual environment in .venv

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Finetooth needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[worker,local,s3,dev]'
	@touch $@

hooks: ## Checks before each commit, and of its message
	git config core.hooksPath scripts/hooks

clean: ## Removes what was installed and built
	rm -rf .venv .cache build dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis

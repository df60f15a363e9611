# Everything happens in .venv beside this file; nothing else on the machine is changed.
# The network is needed once, to fill .venv; after that only where pyproject.toml or constraints.txt change.

PYTHON ?= python3
ARGS   ?=
# Test files that run at a time. Most tests wait for something, so two cores carry three.
JOBS   ?= 3
IMAGE  ?= upstreamd:local
BENCH  ?= *

.DEFAULT_GOAL := help
.PHONY: help demo test pytest check bench image sbom release-check clean environment environment-dev

help:
	@echo 'make demo    the whole product on this machine; ARGS="--duration 20" and the like are passed on'
	@echo 'make test    make check, then make pytest'
	@echo 'make pytest  every test this machine can run; PYTEST_ARGS are passed on, like PYTEST_ARGS="-k plan -x"'
	@echo 'make check   format, lint, types, import contracts'
	@echo 'make bench   measurements and comparisons with peers; BENCH=propagation chooses one, ARGS are passed on'
	@echo 'make image   the container image $(IMAGE)'
	@echo 'make sbom    sdist, wheel and SBOM (CycloneDX) in dist/, the wheel tried in an empty environment'
	@echo 'make release-check TAG=v0.1.0   whether the tag, the version and the changelog agree'
	@echo 'make clean   remove .venv and what builds and tests left'
	@echo
	@echo 'PYTHON=/path/to/python3.12 chooses the interpreter (3.11 or later).'

demo: environment
	@trap : INT; .venv/bin/python -m upstreamd demo $(ARGS) || test $$? = 130  # Ctrl-C is how it is meant to end

test: check pytest

pytest: environment-dev
	.venv/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: environment-dev
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy
	.venv/bin/lint-imports

bench: environment-dev
	@for script in $$(grep -l '__main__' bench/$(BENCH).py); do \
	    echo "== $$script"; .venv/bin/python "$$script" $(ARGS) || exit 1; \
	done

image:
	docker build --tag $(IMAGE) .

sbom: environment-dev
	.ci/package.sh dist

release-check:
	@$(PYTHON) deploy/release_check.py '$(TAG)'

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What .venv holds is named in it, with a checksum of what it was made from: it is filled again only where that changed.
environment:
	@PYTHON='$(PYTHON)' sh deploy/environment.sh demo
environment-dev:
	@PYTHON='$(PYTHON)' sh deploy/environment.sh dev

# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Every target stands alone: it makes the environment that it needs (scripts/bootstrap) before it starts.
.DEFAULT_GOAL := help
SHELL := bash
PYTEST_ARGS ?=

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.PHONY: demo
demo: ## Harden a private PostgreSQL 18 with a demo application, twice, and show the proof
	@demo/run

.PHONY: test
test: ## Run the whole suite; names what this machine cannot run
	@scripts/run suite all

.PHONY: quick
quick: ## Lint, unit tests, and the integration tests that the change can break, on the newest PostgreSQL
	@scripts/run suite quick

.PHONY: lint
lint: ## Run the quality gates that take seconds
	@scripts/run suite lint

.PHONY: sanity
sanity: ## Run ansible-test sanity over a copy of this tree
	@scripts/run suite sanity

.PHONY: unit
unit: ## Run the fast tests, which need no server (PYTEST_ARGS='-k name')
	@scripts/run pytest tests/unit $(PYTEST_ARGS)

.PHONY: integration
integration: ## Run the tests on PostgreSQL 14 to 18 (BULWARK_PG_MAJORS=18 for one, PYTEST_ARGS='-k name')
	@scripts/run pytest -n 2 --dist loadgroup tests/integration $(PYTEST_ARGS)

.PHONY: tarball
tarball: ## Build the collection, install the tarball, run a playbook from the installed copy
	@scripts/run suite tarball

.PHONY: molecule
molecule: ## Run the scenarios on real systems in containers (podman or docker)
	@scripts/run suite molecule

.PHONY: docs
docs: ## Write the role pages and check the documentation
	@scripts/run python scripts/role_pages.py
	@scripts/run suite docs role-pages

.PHONY: bench
bench: ## Measure every performance claim again: bench/results.json
	@scripts/run python -m bench.claims bench/results.json

.PHONY: soak
soak: ## Run the long measurements: bench/soak.json
	@scripts/run python -m bench.claims bench/soak.json

.PHONY: clean
clean: ## Remove everything that was generated
	@rm -rf .work tests/output .ruff_cache .mypy_cache .pytest_cache .hypothesis .ansible *.tar.gz
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

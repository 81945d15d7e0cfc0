# 'make run' and 'make test' need make and Python 3.11 or later; all else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
READY := .venv/ready

.DEFAULT_GOAL := help
.PHONY: help run test env notebooks lab outputs student book measure bench lint lock clean

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

run: env notebooks ## make the environment, execute every notebook, print its results

test: $(READY) ## unit tests, then every notebook with a check on its metrics
	$(PY) -m pytest

env: $(READY) ## only make the environment .venv

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "PYTHON=$(PYTHON) is older than 3.11; name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv --clear .venv
	@echo "Installing what requirements.lock names into .venv; with PyTorch this takes minutes and, on Linux, 6 GB."
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

notebooks: $(READY) ## execute every notebook into build/
	$(PY) -m clipnull run

lab: $(READY) ## open JupyterLab on the notebooks
	$(PY) -m jupyter lab notebooks

outputs: $(READY) ## execute every notebook and write its outputs back into notebooks/
	$(PY) -m clipnull publish

student: $(READY) ## write the course without solutions and outputs into build/student/
	$(PY) -m clipnull student

book: $(READY) ## render the course, as stored, to a static site in build/book/
	$(PY) -m clipnull book

measure: $(READY) ## print the figures of the README and the model card
	$(PY) data/build/measure.py

bench: $(READY) ## every request x every method on miniworld and, if named, PACS; the speed of the closed form
	@mkdir -p build
	$(PY) -m clipnull bench --json build/bench-miniworld.json
	$(if $(CLIPNULL_DATA),$(PY) -m clipnull bench "$(CLIPNULL_DATA)/test" --json build/bench-data.json)
	$(PY) -m clipnull bench --speed

lint: $(READY) ## check style
	$(PY) -m ruff check .

lock: ## find the newest versions anew (needs uv)
	{ echo "# Exact versions for 'make env', Python 3.11 and later, made by 'make lock'."; \
	  uv pip compile --universal --python-version 3.11 --all-extras --no-annotate --no-header --upgrade \
	  pyproject.toml; } > requirements.lock.partial && mv requirements.lock.partial requirements.lock

clean: ## remove the environment and what was built
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis

# 'make run' and 'make test' need make and Python 3.11 or later; all else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Which PyTorch on Linux: cuda, cpu, or auto, which is cuda where NVIDIA's driver is there. Change: make clean env TORCH=cuda
TORCH ?= auto
PY := .venv/bin/python
# In a call of make's `if`, a comma of its own would end the argument.
COMMA := ,
READY := .venv/ready
# Two workers, one thread each. A test is quick if it has none of the three marks.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help run lint check test nightly env notebooks lab outputs student book slides booklet colab results bench paper \
  measure format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

run: env notebooks ## make the environment, execute every lesson, and open the first one as soon as it is there

lint: $(READY) ## format, style, types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m pyrefly check --python-interpreter-path $(PY)

check: lint ## a minute or two: format, style, types, the examples of the docstrings, unit tests
	$(PYTEST) --doctest-modules clipnull tests -m "not slow and not notebooks and not nightly"

test: lint ## what a change must pass, 4 to 7 minutes: all of check, the slow tests, every notebook whose code has changed
	$(PYTEST) --doctest-modules clipnull tests -m "not nightly"

nightly: lint ## everything: long fuzzing, clusters, all profiles, the book in a browser at all sizes
	CLIPNULL_NIGHTLY=1 $(PYTEST) --doctest-modules clipnull tests

env: $(READY) ## only make the environment .venv; TORCH=auto, cpu or cuda says with which PyTorch

$(READY): .venv/packages pyproject.toml
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(PY) -m pip check
	@touch $@

.venv/packages: requirements.lock .ci/env.sh .ci/cpu_torch.py
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" bash .ci/env.sh .venv
	@touch $@

notebooks: $(READY) ## execute every lesson into build/
	$(PY) -m clipnull run

lab: $(READY) ## open JupyterLab on the notebooks
	$(PY) -m jupyter lab notebooks

outputs: $(READY) ## execute every notebook and write its outputs back into notebooks/
	$(PY) -m clipnull publish

student: $(READY) ## write the course without solutions and outputs into build/student/
	$(PY) -m clipnull student

book: $(READY) ## render the course, as stored, to a static site in build/book/
	$(PY) -m clipnull book

slides: $(READY) ## make slides of the notebooks, as stored, into build/slides/
	$(PY) -m clipnull slides

booklet: $(READY) ## write all exercises and all solutions as pages to print into build/booklet/
	$(PY) -m clipnull booklet

colab: $(READY) ## write notebooks that install clipnull themselves into build/colab/: ADDRESS=https of the repository
	$(PY) -m clipnull colab $(if $(ADDRESS),--address $(ADDRESS))

results: $(READY) ## write the tables of RESULTS.md, data/results and README, with what `make bench` measured
	$(PY) data/results/write.py $(wildcard build/bench-*.json)

bench: $(READY) ## every request x every method on miniworld and, if named, PACS and stored embeddings; the speed
	@mkdir -p build
	$(PY) -m clipnull bench --name "miniworld test" --json build/bench-miniworld.json
	$(if $(CLIPNULL_DATA),$(PY) -m clipnull bench "$(CLIPNULL_DATA)/test" --name "PACS test" --json build/bench-pacs.json)
	$(if $(CLIPNULL_EMBEDDINGS),$(PY) -m clipnull bench "$(CLIPNULL_EMBEDDINGS)/vitb32_style.npz" \
	  --name "OpenAI ViT-B/32$(COMMA) photo and drawing" --json build/bench-style.json)
	$(if $(CLIPNULL_EMBEDDINGS),$(PY) -m clipnull bench "$(CLIPNULL_EMBEDDINGS)/vitb32_source.npz" \
	  --name "OpenAI ViT-B/32$(COMMA) photo and CIFAR" --json build/bench-source.json)
	$(PY) data/results/speed.py --json build/bench-speed.json

paper: $(READY) ## ViT-B/16 and L/14 on folders of pictures, beside the paper's figures: DATA="pacs DomainNet"
	$(if $(DATA),,$(error DATA: no folder is named; expected such as make paper DATA="pacs office-home DomainNet"))
	$(PY) -m clipnull paper $(DATA) $(OPTIONS)

measure: $(READY) ## print the figures of the model card
	$(PY) data/build/measure.py

format: $(READY) ## bring the code into the form that check asks for
	$(PY) -m ruff check --fix-only --quiet .
	$(PY) -m ruff format .

lock: $(READY) ## find the newest versions anew
	@# torch names the versions of its CUDA libraries itself; pinned here, they would be installed without a GPU too.
	$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-header --upgrade \
	  pyproject.toml -o requirements.lock.partial
	{ echo "# Exact versions for 'make env', Python 3.11 and later, made by 'make lock'."; \
	  grep -vE '^(nvidia-|cuda-|triton|#)' requirements.lock.partial; } > requirements.lock
	@rm requirements.lock.partial

clean: ## remove the environment and what was built
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis

# Every target sets up what it needs in .venv by itself, and is quick when that exists.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out
TYPED := guideflow,guideflow_avatars,guideflow_clip,guideflow_diffusers,guideflow_identity,guideflow_measurement,guideflow_segmentation,guideflow_style,guideflow_subject
QUICK := anchored balanced callbacks candidates compose from_file images loss registry rollout sampler sheets solution solvers

.PHONY: help demo test typed slow quick docs pictures lint format clean

help: ## what can be typed here
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/.installed-demo ## guide four seeds to a bundled portrait and write out/demo.png
	$(BIN)/guideflow demo --out $(OUT)

test: $(VENV)/.installed-test ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

typed: $(VENV)/.installed-test ## run the tests in random order, with shapes and types checked at run time
	$(BIN)/python -m pytest -p randomly --jaxtyping-packages=$(TYPED),typechecker.typechecked $(PYTEST_ARGS)

slow: $(VENV)/.installed-test ## run the code of the pages, and tests that take as long
	$(BIN)/python -m pytest -m slow --dist load $(PYTEST_ARGS)

quick: $(VENV)/.installed-test ## run the tests of the core and the command line, in under a minute
	$(BIN)/python -m pytest -q $(QUICK:%=tests/test_%.py) $(PYTEST_ARGS)

docs: $(VENV)/.installed-docs ## build the documentation into site/
	$(BIN)/mkdocs build --strict

pictures: $(VENV)/.installed-test ## draw the pictures of the documentation again, with the code on its pages
	GUIDEFLOW_PICTURES=1 $(BIN)/python -m pytest tests/test_docs.py -m slow -k pictures

lint: $(VENV)/.installed-test ## format check, lint, types and layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test ## format and mend what can be mended automatically
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## remove the environment and everything that commands have written
	rm -rf $(VENV) site out build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# One stamp per set of dependencies; pyproject.toml decides when it is stale.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[diffusers,plot]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[test]'
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[docs]'
	@touch $@ $(VENV)/.installed-demo

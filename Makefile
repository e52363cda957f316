# Suite of `make report`: a file in params/.
SUITE ?= lab
# Python that the environment is made with; the pins are for 3.11.
PYTHON ?= python3
# Further arguments of `make report`, such as ARGS="--only 01_visual_factors" or ARGS="-p data /my/images".
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help report test jupyter lint format bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

report: $(READY) ## run the notebooks of a suite and build outputs/SUITE/report/index.html
	$(BIN)/python -m clipsafe_utils report -f params/$(SUITE).yaml $(ARGS)

test: $(READY) ## run every test
	$(BIN)/python -m pytest

jupyter: $(READY) ## open JupyterLab
	$(BIN)/python -m jupyterlab notebooks

lint: $(READY) ## check style, and that notebooks agree with their .py twins and hold no outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m clipsafe_utils notebooks --check

format: $(READY) ## mend what lint finds
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m clipsafe_utils notebooks

bench: $(READY) ## measure speed against the peers
	@for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python "$$script" || exit 1; done

clean: ## remove the environment and caches; outputs/ stays
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# Set up once, and again only when the pins or the package's settings change.
$(READY): constraints.txt requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 is needed; make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

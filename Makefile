# Everything runs in .venv, with the versions of requirements.lock; uv is used inside it because
# it is quick.
PY := .venv/bin/python
export TOKENIZERS_PARALLELISM = false
# Some machines forbid to keep bytecode; then each process compiles torch's sources anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo check lint types test test-all docs figures site hooks bench bench-check lock clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/installed ## Fit the bundled sample of Fashion-MNIST within a latency budget.
	.venv/bin/vitrail fit fashion-sample --latency 5ms --time 4m --out demo-run

check: lint types test ## Do what CI does: lint, types and the daily tests.

lint: .venv/ready ## Check style and format with ruff.
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/ready ## Check types with pyright.
	.venv/bin/pyright --pythonpath $(PY)

# Processes of one thread each: most tests are too small to gain from threads.
PROCESSES ?= 2
TEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(PROCESSES) --dist worksteal

test: .venv/ready ## Run the daily tests.
	$(TEST) -m "not slow"

test-all: .venv/ready ## Run all tests, slow ones included.
	$(TEST)

docs: .venv/ready ## Write docs/models.md again, from the tables of the model files.
	$(PY) -m vitrail.models > docs/models.md

# After a new or changed model: make figures FAMILIES=resnet; minutes for all of them.
figures: .venv/ready ## Count parameters and multiply-adds again, of all FAMILIES or of some.
	$(PY) -m vitrail.models figures $(FAMILIES)

site: docs ## Build the documentation into site/, to be read without a network.
	$(PY) -m mkdocs build

hooks: .venv/ready ## Run the quick checks before every commit of this clone.
	.venv/bin/pre-commit install

# Some three hours on 2 cores, one of them of the compiler; what was measured is kept and gone on with.
bench: .venv/ready ## Measure all families beside their peers and write docs/speed.md: three hours.
	.venv/bin/vitrail bench --out bench-run/inference --resume
	.venv/bin/vitrail bench --training --batch 8 --out bench-run/training --resume
	.venv/bin/vitrail bench --compile --against none --batch 1 --out bench-run/compile --resume
	.venv/bin/vitrail growth --out bench-run/growth --resume
	$(PY) -m vitrail.bench docs/speed.md bench-run/inference bench-run/training bench-run/compile bench-run/growth

bench-check: .venv/ready ## Fail where a ratio to the fastest peer fell by more than 15 % since bench/baseline.json.
	$(PY) -m pytest -q bench/test_ratios.py

lock: .venv/installed ## Choose the newest versions again and write requirements.lock.
	.venv/bin/uv pip compile pyproject.toml --extra dev --python-version 3.11 --no-header --no-emit-index-url -q -o requirements.lock

.venv/installed: requirements.lock pyproject.toml
	test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	.venv/bin/uv pip install --quiet --python $(PY) --constraint requirements.lock -e .
	touch $@

.venv/ready: .venv/installed
	.venv/bin/uv pip install --quiet --python $(PY) -r requirements.lock
	touch $@

clean: ## Remove what make has made: .venv, site/, demo-run/ and bench-run/.
	rm -rf .venv site demo-run bench-run

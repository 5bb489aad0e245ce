# Everything runs in .venv, set up from requirements.lock; uv is used inside it because it is quick.
PY := .venv/bin/python
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test test-all lint lock docs figures bench bench-check clean

demo: .venv/ready
	.venv/bin/vitrail fit fashion-sample --latency 5ms --time 4m --out demo-run

# Two processes of one thread each: most tests are too small to gain from threads.
TEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

test: .venv/ready
	$(TEST) -m "not slow"

test-all: .venv/ready
	$(TEST)

lint: .venv/ready
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/pyright --pythonpath $(PY)

docs: .venv/ready
	$(PY) -m vitrail.models > docs/models.md

# After a new or changed model: make figures FAMILIES=resnet; minutes for all of them.
figures: .venv/ready
	$(PY) -m vitrail.models figures $(FAMILIES)

# Some three hours on 2 cores, one of them of the compiler; what was measured is kept and gone on with.
bench: .venv/ready
	.venv/bin/vitrail bench --out bench-run/inference --resume
	.venv/bin/vitrail bench --training --batch 8 --out bench-run/training --resume
	.venv/bin/vitrail bench --compile --against none --batch 1 --out bench-run/compile --resume
	.venv/bin/vitrail growth --out bench-run/growth --resume
	$(PY) -m vitrail.bench docs/speed.md bench-run/inference bench-run/training bench-run/compile bench-run/growth

# Whether a ratio to the fastest peer has fallen by more than 15 % since bench/baseline.json.
bench-check: .venv/ready
	$(PY) -m pytest -q bench/test_ratios.py

lock:
	uv pip compile pyproject.toml --extra dev --python-version 3.11 --no-header --no-emit-index-url -q -o requirements.lock

.venv/ready: requirements.lock pyproject.toml
	test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	.venv/bin/uv pip install --quiet --python $(PY) -r requirements.lock
	.venv/bin/uv pip install --quiet --python $(PY) --no-deps -e .
	touch $@

clean:
	rm -rf .venv demo-run bench-run

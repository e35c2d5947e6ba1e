# Each verb sets up all that it needs, on a fresh machine too.
PYTHON ?= python3
# Tests at once: one that starts Ray takes a core and some 3 GB.
JOBS ?= 2
# Of a soak, which takes about so long.
MINUTES ?= 60

.PHONY: demo test soak check bench docs pictures clean .venv

demo: .venv  ## a finished sweep with a table and pictures, within minutes
	.venv/bin/python -m runner.tune experiments/quickstart.yaml

test: .venv  ## all tests; a test that needs the real pairs skips where they are absent
	.venv/bin/python -m pytest -n $(JOBS) --dist worksteal

# A third of the time for each of the drill's faults, spot machines, and runs that are killed at random places, of which
# each takes some four seconds with two at once; a quarter as many, on a bucket, take five.
soak: .venv  ## an hour of faults (make soak MINUTES=600 for a night): the drill's, nodes that come and go, kills at random places, broken files
	.venv/bin/python -m runner.drill --minutes $$(($(MINUTES) / 3 + 1))
	.venv/bin/python -m runner.drill --trace spot --minutes $$(($(MINUTES) / 3 + 1))
	.venv/bin/python -m pytest -m soak
	.venv/bin/python -m pytest -n $(JOBS) --dist worksteal tests/end_to_end/test_crashes.py tests/end_to_end/test_crashes_on_a_bucket.py --kill-seeds $$(($(MINUTES) * 5))
	.venv/bin/python -m pytest tests/runner/config/test_mutations.py --mutations $$(($(MINUTES) * 10))

check: .venv  ## lint, format, types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv  ## speed, as ratios in one run
	.venv/bin/python -m benchmarks.train_step --batch-size 1 --turns 2
	.venv/bin/python -m benchmarks.evaluation --turns 2
	.venv/bin/python -m benchmarks.data --pictures 600 --repeats 2
	.venv/bin/python -m benchmarks.checkpoint --repeats 3
	.venv/bin/python -m benchmarks.runner --repeats 1

docs: .venv  ## the reference of experiment files, made of their schema
	.venv/bin/python -m runner.config docs

pictures: .venv  ## the README's pictures, from a run of the demo; needs tmux and Chromium
	.venv/bin/python docs/pictures/make.py

# The stamp is set last, so that a broken-off installation is not taken for a whole one.
.venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing PyTorch, Ray and the rest into .venv: 6.4 GB, some minutes ..."
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch .venv/installed
	@echo "Installed. This is done once."

clean:  ## everything that the other verbs made, results of the demo included
	rm -rf .venv *.egg-info .mypy_cache .pytest_cache .ruff_cache gan/.ruff_cache results/quickstart
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

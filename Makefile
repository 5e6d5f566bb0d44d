# make demo      the whole job on embedded data: pretrain, classify, plot (minutes on 2 CPU cores)
# make test      lint and the quick tests
# make hazards   kills, full disks, fuzz, bombs, pressure
# make slow      what takes minutes
# make oldest    the quick tests with the oldest versions that requirements.txt allows (3 GB)
PYTHON ?= python3
BIN := .venv/bin
RUNS := demo/runs
PROCESSES := 2
SHELL := /bin/sh

.PHONY: demo test hazards slow oldest clean
.DELETE_ON_ERROR:

.venv/.installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: .venv/.installed
	$(BIN)/python train_byol.py --config configs/cartoons.toml --run-dir $(RUNS)/byol --out demo/byol.pt --overwrite
	for init in random demo/byol.pt; do for part in --freeze "--no-freeze --epochs 10 --folds 0"; do \
	  $(BIN)/python train_classifier.py --config configs/cartoons.toml --runs $(RUNS) --init $$init $$part --seeds 3 --overwrite || exit 1; \
	done; done
	$(BIN)/python plot_losses.py --runs $(RUNS) --out demo/plots

test: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -n $(PROCESSES) --dist loadfile

hazards: .venv/.installed
	$(BIN)/python -m pytest -q -n $(PROCESSES) -m "hazard and not slow"

slow: .venv/.installed
	$(BIN)/python -m pytest -q -n $(PROCESSES) -m slow

.venv-oldest/.installed: requirements.txt
	$(PYTHON) -m venv .venv-oldest
	sed 's/>=/==/' requirements.txt > .venv-oldest/requirements.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r .venv-oldest/requirements.txt
	touch $@

oldest: .venv-oldest/.installed
	.venv-oldest/bin/python -m pytest -q -n $(PROCESSES)

clean:
	rm -rf demo .pytest_cache .ruff_cache

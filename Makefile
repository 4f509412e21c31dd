# install: .venv with everything for a CPU    demo: a working recommender    test: lint, types, suite
# demo-traffic: a classifier of traffic that it makes itself    audit: known vulnerabilities
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ROOMS  := errata services pipelines feature_store models benchmarks scripts
# The extra that brings FAISS: cpu, or gpu on a CUDA machine (never both).
FAISS  ?= cpu

.PHONY: install demo demo-traffic test check audit docs format bench web clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@bash scripts/install.sh "$(PYTHON)" "$(VENV)" "$(FAISS)"
	@touch $@

demo: $(STAMP)
	@$(BIN)/errata demo --config configs/demo.yaml

demo-traffic: $(STAMP)
	@$(BIN)/errata demo-traffic

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml $(ROOMS)

# A file's tests stay in one process: they share what they start. Two threads of OpenMP a process
# would fight for the cores.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not alone" -n logical --maxprocesses 4 --dist loadfile
	$(BIN)/python -m pytest -m alone

# Known vulnerabilities of what is installed. Apart from `check`: it asks a server, and finds new
# ones in old code.
audit: $(STAMP)
	@$(BIN)/python scripts/audit.py

# The pages that are made of the program itself; a test says when they are old.
docs: $(STAMP)
	$(BIN)/python scripts/reference.py docs/reference

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@for name in $$($(BIN)/python -m benchmarks); do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

# The dashboard is sent as it is written: there is nothing to build. This drives it in a browser and
# takes the README's pictures anew.
web: $(STAMP)
	ERRATA_PICTURES=docs/images $(BIN)/python -m pytest -q tests/services/dashboard

clean:
	rm -rf $(VENV) var

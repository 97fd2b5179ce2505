# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUN := $(BIN)/rag-hpc
DEMO_PAGES ?= 1000
# Written down before the run; `rag-hpc milestones` holds the results against them.
PREDICTIONS := milestones.min_duplicates=40 milestones.min_answer_f1=0.02 milestones.min_efficiency_crawl=0.8 \
               milestones.min_efficiency_encode=0.6
APT := slurmctld slurmd slurm-client slurmdbd munge mariadb-server iproute2 openmpi-bin libopenmpi3 chromium

.PHONY: demo test lint unit slurm-packages clean-demo help

help:
	@echo "make demo   install what the demo needs and run the pipeline, baseline and distributed"
	@echo "make test   install what the tests need and run the whole suite"
	@echo "make lint   ruff and mypy"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || { \
	    echo "$$($(PYTHON) -V 2>&1), but Python 3.10 to 3.12 is needed; name one: make PYTHON=python3.11 demo"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "no venv module: apt-get install -y python3-venv, or: make PYTHON=python3.11 demo"; exit 1; }

# An editable install, so that the tests and the demo run what is in this folder.
$(VENV)/.demo: $(BIN)/python setup.py constraints.txt
	$(PIP) install --quiet --no-cache-dir -c constraints.txt -e '.[lexical,mpi]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) install --quiet --no-cache-dir -c constraints.txt -e '.[lexical,mpi,dev]'
	@touch $@

demo: $(VENV)/.demo
	@$(RUN) run pipeline=baseline run=demo-baseline corpus.max_pages=$(DEMO_PAGES)
	@$(RUN) run pipeline=cluster run=demo-cluster workers=2 corpus.max_pages=$(DEMO_PAGES) $(PREDICTIONS)
	@echo; echo "== Are the answers those of the baseline?"
	@$(RUN) verify demo-baseline demo-cluster
	@echo; echo "== Milestones: predictions against results"
	@$(RUN) milestones demo-cluster --baseline demo-baseline || [ $$? = 1 ]  # a missed prediction is a result
	@echo; echo "== Three questions"
	@for q in "How do I create a/b/c when a does not exist yet?" \
	          "My triple-quoted text is indented along with the code. How do I strip that margin?" \
	          "How do I check with isinstance that something is numeric, whatever its kind?"; do \
	    echo; echo "Q: $$q"; $(RUN) ask "$$q" run=demo-cluster || exit 1; done
	@echo
	@$(RUN) report demo-cluster --baseline demo-baseline

# Slurm, MariaDB, MPI and a browser for the tests that use them; without root those tests skip and say why.
slurm-packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    dpkg -s $(APT) >/dev/null 2>&1 || { apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(APT) >/dev/null; }; \
	else echo "not root on Debian or Ubuntu: tests on a real Slurm will skip"; fi

test: slurm-packages lint
	$(BIN)/python -m pytest

# mypy sees the folders under the one name that they are imported by.
lint: $(VENV)/.test
	$(BIN)/python -m ruff check .
	@rm -rf build/types && mkdir -p build/types/rag_hpc && ln -s $(CURDIR)/rag_hpc/* build/types/rag_hpc
	@for part in launchers slurm eval conf; do ln -s $(CURDIR)/$$part build/types/rag_hpc/$$part; done
	cd build/types && $(BIN)/python -m mypy --config-file ../../pyproject.toml -p rag_hpc

unit: $(VENV)/.test
	$(BIN)/python -m pytest tests/unit

clean-demo:
	rm -rf results/runs/demo-baseline results/runs/demo-cluster

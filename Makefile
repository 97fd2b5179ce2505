# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUN := $(BIN)/rag-hpc
DEMO_PAGES ?= 1000
# torch's CPU build is taken from here where there is no GPU: an index, or a folder of wheels, that has it.
TORCH_INDEX_URL ?=
TORCH_CPU := torch==$(shell sed -n 's/^torch==//p' constraints.txt)+cpu
TORCH_FROM = $(if $(wildcard $(TORCH_INDEX_URL)/.),--no-index --find-links,--index-url) $(TORCH_INDEX_URL)
GPU := $(wildcard /dev/nvidiactl /dev/kfd)
# What `pip install` of the demo downloads, and takes on disk: results/DECISIONS.md, "Sizes", says how that was measured.
SIZE := 3.4 GB, 6.8 GB on disk
SIZE_CPU := 0.8 GB, 2.7 GB on disk
# pip says nothing until it is done; a terminal gets a dot every two seconds
DOTS = dots() { [ -t 1 ] || return 0; while sleep 2; do printf .; done; }; dots & trap "kill $$! 2>/dev/null" EXIT;
# Written down before the run; `rag-hpc milestones` holds the results against them.
PREDICTIONS := milestones.min_duplicates=40 milestones.min_answer_f1=0.02 milestones.min_efficiency_crawl=0.8 \
               milestones.min_efficiency_encode=0.6
# Three tests at a time, one of which may be on a Slurm, where it mostly waits; tests/conftest.py says which stay together.
MANY := -n 3 --dist loadgroup --no-loadscope-reorder
APT := slurmctld slurmd slurm-client slurmdbd munge mariadb-server iproute2 openmpi-bin libpmix-dev chromium \
       redis-server nginx-light
# what the README asks of a machine beforehand
BARE := python3 python3-venv make git ca-certificates

.PHONY: sizes demo test test-vllm test-fleet test-ragas lint unit slurm-packages check-packages devcluster-check clean-demo help

help:
	@echo "make demo   install what the demo needs and run the pipeline, baseline and distributed"
	@echo "make test   install what the tests need and run the whole suite"
	@echo "make test-vllm VLLM_PYTHON=PYTHON   the generator job with a real vLLM"
	@echo "make test-ragas   the judge with RAGAS"
	@echo "make test-fleet   replicas and gateways on a real Slurm, killed under load"
	@echo "make lint   ruff and mypy"
	@echo "make devcluster-check   a Slurm of four nodes on this machine: does it work, and go without a trace?"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || { \
	    echo "$$($(PYTHON) -V 2>&1), but Python 3.11 to 3.14 is needed; name one: make PYTHON=python3.11 demo"; exit 1; }
	@echo "== a virtual environment: $(VENV)"
	@$(DOTS) $(PYTHON) -m venv $(VENV) || { echo "no venv module: apt-get install -y python3-venv, or: make PYTHON=python3.11 demo"; exit 1; }

# torch's CPU build first, so that the packages after it find torch there.
$(VENV)/.torch: | $(BIN)/python
ifneq ($(TORCH_INDEX_URL),)
	@if [ -n "$(GPU)" ]; then echo "== a GPU is here ($(firstword $(GPU))): torch comes from the default index"; \
	else echo "== $(TORCH_CPU) from $(TORCH_INDEX_URL)"; \
	    $(DOTS) $(PIP) install --quiet --no-cache-dir --no-deps $(TORCH_FROM) $(TORCH_CPU) || \
	    echo "== $(TORCH_INDEX_URL) has no $(TORCH_CPU): torch comes from the default index, which is $(SIZE) in all"; fi
endif
	@touch $@

# An editable install, so that the tests and the demo run what is in this folder.
$(VENV)/.demo: $(BIN)/python setup.py constraints.txt | sizes $(VENV)/.torch
	@echo "== the packages"
	@$(DOTS) $(PIP) install --quiet --no-cache-dir -c constraints.txt -e '.[cpu,lexical,mpi]'
	@touch $@; echo "== installed"

# What is about to be downloaded; said before it is.
sizes:
	@if [ -e $(VENV)/.demo ]; then :; \
	elif [ -n "$(TORCH_INDEX_URL)" ] && [ -z "$(GPU)" ]; then echo "== packages will be downloaded: $(SIZE_CPU)"; \
	else echo "== packages will be downloaded: $(SIZE), most of it torch for GPUs"; \
	    [ -n "$(GPU)" ] || echo "   no GPU is here: make demo TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu" \
	        "takes $(SIZE_CPU)"; fi

$(VENV)/.test: $(VENV)/.demo
	@echo "== the packages of the tests"
	@$(DOTS) $(PIP) install --quiet --no-cache-dir -c constraints.txt -e '.[cpu,lexical,mpi,train,track,gateway,dev]'
	@touch $@

demo: $(VENV)/.demo
	@$(RUN) run pipeline=baseline run=demo-baseline corpus.max_pages=$(DEMO_PAGES)
	@$(RUN) run pipeline=cluster run=demo-cluster workers=2 corpus.max_pages=$(DEMO_PAGES) $(PREDICTIONS)
	@echo; echo "== Are the answers those of the baseline?"
	@$(RUN) verify demo-baseline demo-cluster
	@echo; echo "== Milestones: predictions against results"
	@$(RUN) milestones demo-cluster --baseline demo-baseline || [ $$? = 1 ]  # a missed prediction is a result
	@echo; echo "== Three questions"
	@for q in "How do I copy a folder?" "How do I run a command and read what it prints?" \
	          "How do I parse a date from a string?"; do \
	    echo; echo "Q: $$q"; $(RUN) ask "$$q" run=demo-cluster || exit 1; done
	@echo
	@$(RUN) report demo-cluster --baseline demo-baseline

# Slurm, MariaDB, MPI and a browser for the tests that use them; without root those tests skip and say why.
slurm-packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    dpkg -s $(APT) >/dev/null 2>&1 || { apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(APT) >/dev/null; }; \
	else echo "not root on Debian or Ubuntu: tests on a real Slurm will skip"; fi

# Does APT name every package that is used? A cluster, MPI and a browser, with all others hidden; no test may skip.
check-packages: slurm-packages $(VENV)/.test
	@if command -v apt-get >/dev/null && unshare --mount --net true; then \
	    unshare --mount $(BIN)/python tests/bare.py $(BARE) $(APT) -- $(BIN)/python -m pytest -q --no-skips \
	        tests/slurm/test_devcluster.py tests/browser -k "srun_pmix and debian or narrow and 1200-True"; \
	else echo "not root on Debian or Ubuntu: the list of packages is not checked"; fi

# A Slurm of four nodes on this machine: up, a step, an MPI job over all nodes, down, nothing left.
devcluster-check: slurm-packages $(VENV)/.demo
	@$(RUN) devcluster check

test: slurm-packages lint
	$(BIN)/python -m pytest $(MANY)

# Tests of a real vLLM, of an environment of its own (Python >= 3.11), and two of its replicas, one of which is killed;
# replicas once more as Slurm jobs on a cluster of this machine, whose nodes see a /tmp of their own and that environment.
test-vllm: $(VENV)/.test
	@[ -n "$(VLLM_PYTHON)" ] || { echo "name the python of an environment that has vLLM: make test-vllm VLLM_PYTHON=..."; exit 1; }
	RAG_HPC_VLLM_PYTHON=$(VLLM_PYTHON) $(BIN)/python -m pytest tests/unit/generators tests/unit/stages/test_judge.py -k real
	$(BIN)/python -m rag_hpc.eval.bench.answers.replicas python=$(VLLM_PYTHON) work=build/replicas
	@if [ "$$(id -u)" = 0 ] && command -v slurmctld >/dev/null; then \
	    cd $(dir $(VLLM_PYTHON)).. && $(RUN) devcluster up && trap '$(RUN) devcluster down' EXIT && cd $(CURDIR) && \
	    $(BIN)/python -m rag_hpc.eval.bench.answers.replicas python=$(VLLM_PYTHON) work=build/slurm-replicas cluster=devcluster; \
	else echo "not root, or no Slurm here: replicas as Slurm jobs are not tried"; fi

# Tests with RAGAS, whose packages (170 MB) the other tests do without.
test-ragas: $(VENV)/.test
	@$(DOTS) $(PIP) install --quiet --no-cache-dir -c constraints.txt -e '.[eval]'
	$(BIN)/python -m pytest tests/unit/stages/test_judge.py tests/unit/algo/answer/test_strings.py

# A fleet on a real Slurm, parts of which are killed under load, and walltimes that pass; it wants the machine to itself.
test-fleet: slurm-packages $(VENV)/.test
	RAG_HPC_SOAK=$(CURDIR)/results/serve $(BIN)/python -m pytest -s tests/slurm/test_replicas.py tests/slurm/test_fleet_faults.py

# mypy sees the folders under the one name that they are imported by.
lint: $(VENV)/.test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check --quiet .
	@rm -rf build/types && mkdir -p build/types/rag_hpc && ln -s $(CURDIR)/rag_hpc/* build/types/rag_hpc
	@for part in launchers slurm eval conf; do ln -s $(CURDIR)/$$part build/types/rag_hpc/$$part; done
	cd build/types && $(BIN)/python -m mypy --config-file ../../pyproject.toml -p rag_hpc

unit: $(VENV)/.test
	$(BIN)/python -m pytest $(MANY) tests/unit

clean-demo:
	rm -rf results/runs/demo-baseline results/runs/demo-cluster

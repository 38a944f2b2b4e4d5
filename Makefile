# Each target builds .venv first if it is missing or out of date.
PYTHON ?= python3
TORCH ?= torch
NUMPY ?= numpy
BIN := .venv/bin

.PHONY: demo demo-faces model test test-slow test-gpu test-core bench bench-gpu lint docs clean

demo: .venv/ready
	$(BIN)/verimargin demo

demo-faces: .venv/ready
	$(BIN)/verimargin demo faces

# A small speaker encoder with its anchors, cohort and thresholds, trained here on synthetic speech.
model: .venv/ready
	$(BIN)/python examples/speech_model.py model

# Two processes with one thread each: most tests are small and use one.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Minutes-long end-to-end runs; SPEECHBRAIN_HOME and ARCFACE_TORCH_HOME name checkouts of the toolkits.
test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

# Every computation of the core on this machine's GPU; a test that needs another GPU says so.
test-gpu: .venv/ready
	$(BIN)/python -c 'import torch, sys; sys.exit(None if torch.cuda.is_available() else "there is no GPU that torch can use")'
	$(BIN)/python -m pytest -rs tests/verimargin/test_devices.py tests/verimargin/head/kernels

# The core in an environment that has nothing but torch, NumPy and pytest. For the oldest that pyproject.toml claims:
#   make test-core PYTHON=python3.10 TORCH=torch==2.7.0 NUMPY=numpy==1.24.0
test-core:
	$(PYTHON) -m venv --clear .venv-core
	.venv-core/bin/python -m pip install --quiet --upgrade pip
	.venv-core/bin/python -m pip install --quiet '$(TORCH)' '$(NUMPY)' 'pytest>=8' 'pytest-timeout>=2.3' 'hypothesis>=6.100' --editable .
	.venv-core/bin/python -m pytest tests/verimargin plugin/verimargin --ignore=plugin/verimargin/commands

bench: .venv/ready
	$(BIN)/python benchmarks/head.py --csv benchmarks/history/head.csv
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/kappa.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/ida.py
	$(BIN)/python benchmarks/load.py

# One table of the head beside what it replaces, on one GPU. ARCFACE_TORCH_HOME may name a checkout of arcface_torch.
bench-gpu: .venv/ready
	$(BIN)/python benchmarks/head.py --device cuda --classes 100000 500000 2000000 --batch 128 1024 --csv benchmarks/history/head.csv

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in site/; it needs no network.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# torch, torchaudio and torchvision from one release; newer torch has no matching torchaudio.
# insightface without opencv-python, which would overwrite opencv-python-headless.
.venv/ready: pyproject.toml requirements/toolkits.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "verimargin needs Python 3.10 or newer: make PYTHON=python3.x")'
	@echo 'Building .venv: 5.9 GB of packages, most of it the CUDA build of torch. pip tells the size of each download below.'
	@command -v nvidia-smi > /dev/null || [ -n "$$PIP_EXTRA_INDEX_URL$$PIP_INDEX_URL" ] || echo 'There is no NVIDIA GPU here. The CPU build of torch saves some 4 GB; stop this and run:  make clean && PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make $(or $(MAKECMDGOALS),demo)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint requirements/toolkits.txt --editable '.[speechbrain,insightface,cli,docs,test]'
	$(BIN)/python -m pip install --constraint requirements/toolkits.txt --no-deps insightface
	touch $@

clean:
	rm -rf .venv .venv-core site

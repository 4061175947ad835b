# make setup | demo | test | test-full | lint | docs | clean
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# for setup, which runs before anything of ours is installed
APT := sudo apt-get install --no-install-recommends
DEMO := demo
TESTS := OMP_NUM_THREADS=1 WANDB_MODE=offline $(BIN)/pytest -n 2

.DEFAULT_GOAL := setup
.PHONY: setup need demo test test-full lint docs clean

setup: $(STAMP)

# What pip cannot bring. Each line names what is missing and the command that brings it, then stops.
need:
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON)"; echo "hint: $(APT) python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $$($(PYTHON) --version) is too old, cadmllm needs Python 3.11 or newer"; \
		echo "hint: $(APT) python3.11 python3.11-venv && make setup PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "error: $(PYTHON) cannot make virtual environments"; echo "hint: $(APT) python3-venv"; exit 1; }
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libGL.so.1")' 2>/dev/null || { \
		echo "error: libGL.so.1 is missing, which the CAD kernel links"; echo "hint: $(APT) libgl1"; exit 1; }

# One pip command: a second one could replace the pinned torch. Runs again only when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory need
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

# Check, train the three stages, answer from a text, a cloud and a picture that training never saw, measure 20 answers to held-out
# prompts, export a plain transformers model that answers the same, and answer from it.
RUN := $(DEMO)/checkpoints
HELD_OUT := $(shell sed -n 3p data/val.txt)
demo: $(STAMP)
	rm -rf $(DEMO)
	$(BIN)/cadmllm doctor --preset tiny
	$(BIN)/cadmllm train all --preset tiny --output_dir $(RUN)
	$(BIN)/cadmllm infer --preset tiny --output_dir $(RUN) --out $(DEMO)/from-text --prompt "A rectangular plate with four corner holes."
	$(BIN)/cadmllm infer --preset tiny --output_dir $(RUN) --out $(DEMO)/from-points --prompt "A heat sink with four fins." --pc data/pcd/$(HELD_OUT).npz --candidates 8
	$(BIN)/cadmllm infer --preset tiny --output_dir $(RUN) --out $(DEMO)/from-image --prompt "A heat sink with four fins." --image data/img/$(HELD_OUT)_000.png
	$(BIN)/cadmllm eval --preset tiny --output_dir $(RUN) --split val --samples 5 --candidates 4 --out $(DEMO)/evaluation
	$(BIN)/cadmllm export --preset tiny --output_dir $(RUN) --to merged --out $(DEMO)/export
	$(BIN)/cadmllm infer --preset tiny --checkpoint $(DEMO)/export --out $(DEMO)/from-export --prompt "A rectangular plate with four corner holes."
	@echo "look at: $(DEMO)/from-*/model.png, model.step, program.py; $(DEMO)/evaluation/sheet.png, report.md; $(DEMO)/export/README.md"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

test: lint
	$(TESTS)

test-full: lint
	$(TESTS) -m 'long or not long' --timeout 1800

docs: $(STAMP)
	$(BIN)/python -m cadmllm.doctor.docs
	$(BIN)/python -m cadmllm.commands._usage

clean:
	rm -rf build dist $(DEMO) .pytest_cache .ruff_cache .hypothesis
	find cadmllm tests -name __pycache__ -type d -prune -exec rm -rf {} +

# make help lists the targets. Variables: PYTHON, VENV, TORCH, e.g. make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
# Installed before the rest, which would otherwise choose a version. On PyPI, the build for Linux has
# CUDA and is several gigabytes large; for another build: TORCH='torch==2.13.0 --index-url URL', with
# pytorch.org's URL for it.
TORCH ?= torch==2.13.0
EXTRAS ?= onedl,pretraining
EXTRAS_OPENMMLAB ?= openmmlab,openmmlab-pretraining,test-onnx
# Where wheels of mmcv with compiled operators are looked for, by test-openmmlab and test-ops.
WHEELS ?= wheels
BIN := $(VENV)/bin
# A process for each core, with one thread.
pytest = OMP_NUM_THREADS=1 $(1)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

.PHONY: help install install-test demo demo-seg demo-pretrain demo-heads test test-slow test-openmmlab test-ops lint card \
	clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## create .venv with what the demos need
install-test: $(VENV)/.installed-test  ## add what the tests need: pytest, ruff, all exporters and runtimes

# A virtual environment: $(call environment,FOLDER,ARGUMENTS OF pip install). One that was interrupted is made anew: pip
# may have left half a package, or no pip. (One that make did not create is never removed.)
define environment
@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' || \
	{ echo 'Needs Python 3.10 to 3.14; name one: make $(MAKECMDGOALS) PYTHON=python3.13'; exit 1; }
@if [ -e $(1)/.unfinished ]; then echo '$(1) is unfinished, from a run that was interrupted: it is made anew.'; \
	rm -rf $(1); fi
@[ -d $(1) ] || { mkdir -p $(1) && touch $(1)/.unfinished; }
$(PYTHON) -m venv $(1) || { echo 'On Debian: apt-get install python3-venv'; exit 1; }
$(1)/bin/pip install -q --upgrade pip wheel 'setuptools<82'
$(1)/bin/python -c 'import torch' 2>/dev/null || $(1)/bin/pip install $(TORCH)
$(1)/bin/pip install $(2)
@# Both OpenCV builds get installed; the one with windows needs libGL, which a bare server lacks.
$(1)/bin/pip uninstall -q -y opencv-python
$(1)/bin/pip install -q --force-reinstall --no-deps opencv-python-headless
$(1)/bin/python -c 'import cv2, mobileone_mm'
@rm -f $(1)/.unfinished
endef

$(VENV)/.installed: setup.py Makefile
	$(call environment,$(VENV),-e '.[$(EXTRAS)]')
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install -e '.[test]'
	@touch $@

data/shapes:
	$(BIN)/python tools/make_shapes.py $@

demo: CONFIG := configs/detection/ssdlite_mobileone_s2_shapes.py
demo-seg: CONFIG := configs/segmentation/deeplabv3_mobileone_s2_shapes.py
demo: install  ## detection: draw the shapes, train, test, and write images to work_dirs/demo
demo-seg: install  ## segmentation: the same, in work_dirs/demo-seg
demo demo-seg:
	@test -d data/shapes || $(MAKE) data/shapes
	rm -rf work_dirs/$@
	$(BIN)/python tools/train.py $(CONFIG) --work-dir work_dirs/$@
	$(BIN)/python tools/test.py $(CONFIG) work_dirs/$@/best_*.pth --work-dir work_dirs/$@/test \
		--show-dir '$(CURDIR)/work_dirs/$@/images'
	@echo; echo 'Images with ground truth on the left and predictions on the right: work_dirs/$@/images'

demo-pretrain: install  ## pretraining: what the detector of the shapes gains by it, in work_dirs/demo-pretrain
	@test -d data/shapes/single || { rm -rf data/shapes; $(MAKE) data/shapes; }
	rm -rf work_dirs/$@
	$(BIN)/python benchmarks/pretraining.py --out-dir work_dirs/$@

demo-heads: install-test  ## heads: RTMDet and LR-ASPP beside SSDLite, DeepLabV3 and peers, in work_dirs/demo-heads
	@test -d data/shapes || $(MAKE) data/shapes
	rm -rf work_dirs/$@
	$(BIN)/python benchmarks/heads.py --out-dir work_dirs/$@

test: install-test  ## the default tests
	$(call pytest,$(BIN))

test-slow: install-test  ## the tests that take minutes
	$(call pytest,$(BIN)) -m slow

# Wheels of mmcv with its compiled operators, of this Python.
TAG := $(shell $(PYTHON) -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
MMCV := $(wildcard $(WHEELS)/mmcv-2.1.0-$(TAG)-*.whl)
OPS := $(wildcard $(WHEELS)/onedl_mmcv-2.3.6-$(TAG)-*.whl)
OPENMMLAB := $(VENV)-openmmlab
# The contract, checkpoints, what an import changes, and all steps of both tasks.
TESTS_OPENMMLAB := $(addprefix tests/,test_mobileone.py test_deploy_form.py test_eval_form.py test_fold.py checkpoint \
	compat test_whole_way.py)

$(OPENMMLAB)/.installed: setup.py Makefile
	$(call environment,$(OPENMMLAB),-e '.[$(EXTRAS_OPENMMLAB)]' --find-links '$(WHEELS)' --only-binary mmcv)
	@touch $@

test-openmmlab: $(if $(MMCV),$(OPENMMLAB)/.installed)  ## the upstream mm line, in an environment of its own
	@$(if $(MMCV),$(call pytest,$(OPENMMLAB)/bin) -m 'slow or not slow' $(TESTS_OPENMMLAB),\
		echo 'Skipped: no wheel mmcv-2.1.0-$(TAG)-*.whl in $(WHEELS); name its folder: WHEELS=FOLDER')

test-ops: $(if $(OPS),install-test)  ## mmcv with its compiled operators, beside what else is installed
	@$(if $(OPS),$(BIN)/pip install -q --no-deps --upgrade --target $(VENV)/ops $(OPS) && \
		PYTHONPATH='$(CURDIR)/$(VENV)/ops' $(call pytest,$(BIN)) -m ops,\
		echo 'Skipped: no wheel onedl_mmcv-2.3.6-$(TAG)-*.whl in $(WHEELS); name its folder: WHEELS=FOLDER')

lint: install-test  ## ruff
	$(BIN)/ruff check

card: install  ## README's tables of models and the metafiles, with latencies of this machine
	$(BIN)/python tools/model_card.py

clean:  ## remove what the targets made, but not work_dirs
	rm -rf $(VENV) $(OPENMMLAB) build dist *.egg-info mobileone_mm/.mim data/shapes

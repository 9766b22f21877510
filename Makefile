# make help lists the targets. Variables: PYTHON, VENV, TORCH, e.g. make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
# Installed before the rest, which would otherwise choose a version, if there is none yet. On PyPI, the build for Linux has
# CUDA and is several gigabytes large; for another build: TORCH='torch==2.13.0 --index-url URL', with
# pytorch.org's URL for it.
TORCH ?= torch==2.13.0
EXTRAS ?= onedl,pretraining
EXTRAS_OPENMMLAB ?= openmmlab,openmmlab-pretraining,test-onnx
# Where wheels of mmcv with compiled operators are looked for, by test-openmmlab and test-ops.
WHEELS ?= wheels
BIN := $(VENV)/bin
ifneq ($(words $(VENV)),1)
$(error VENV is one folder without spaces in its name, got '$(VENV)')
endif
# A process for each core, with one thread.
pytest = OMP_NUM_THREADS=1 $(1)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

.PHONY: help install install-test demo demo-seg demo-pretrain demo-heads test test-slow test-openmmlab test-ops lint card \
	docs figures clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## create .venv with what the demos need
install-test: $(VENV)/.installed-test  ## add what the tests need: pytest, ruff, all exporters and runtimes

# A virtual environment in $(1). One whose installation did not end is made anew: pip may have left half a package, or
# no pip. One that make did not create is never removed.
define begin
@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' || \
	{ echo 'Needs Python 3.10 to 3.14; name one: make $(MAKECMDGOALS) PYTHON=python3.13'; exit 1; }
@if [ -e $(1)/.unfinished ]; then echo '$(1) is unfinished: an installation failed or was interrupted. It is made anew.'; \
	rm -rf $(1); fi
@[ -d $(1) ] || { mkdir -p $(1) && touch $(1)/.made; }
@rm -f $(1)/.installed*; [ ! -e $(1)/.made ] || touch $(1)/.unfinished
endef

# $(call environment,FOLDER,ARGUMENTS OF pip install)
define environment
$(call begin,$(1))
$(PYTHON) -m venv $(1) || { echo 'On Debian, this needs: apt-get install python3-venv'; exit 1; }
$(1)/bin/pip install -q --upgrade pip wheel 'setuptools<82'
$(1)/bin/python -c 'import torch' 2>/dev/null || $(1)/bin/pip install $(TORCH)
$(1)/bin/pip install $(2)
@# Both OpenCV builds get installed; the one with windows needs libGL, which a bare server lacks.
$(1)/bin/pip uninstall -q -y opencv-python
$(1)/bin/pip install -q --force-reinstall --no-deps opencv-python-headless
$(1)/bin/python -c 'import cv2, mobileone_mm'
@rm -f $(1)/.unfinished; touch $(1)/.installed
endef

$(VENV)/.installed: setup.py Makefile
	$(call environment,$(VENV),-e '.[$(EXTRAS)]')

$(VENV)/.installed-test: $(VENV)/.installed
	$(call begin,$(VENV))
	@$(BIN)/python -c 'import sys; sys.version_info < (3, 14) or print("There is no ExecuTorch for Python 3.14 yet: its tests skip.")'
	$(BIN)/pip install -e '.[test]'
	@rm -f $(VENV)/.unfinished; touch $(VENV)/.installed $@

# Drawn anew where an earlier version drew less.
define shapes
	@test -f data/shapes/JPEGImages/train_2399.jpg && test -d data/shapes/single || { rm -rf data/shapes; \
		$(BIN)/python tools/make_shapes.py data/shapes; }
endef

demo: CONFIG := configs/detection/ssdlite_mobileone_s2_shapes.py
demo-seg: CONFIG := configs/segmentation/lraspp_mobileone_s1_shapes.py
demo: install  ## detection: draw the shapes, train, test, and write images to work_dirs/demo
demo-seg: install  ## segmentation: the same, in work_dirs/demo-seg
demo demo-seg:
	$(shapes)
	rm -rf work_dirs/$@
	$(BIN)/python tools/train.py $(CONFIG) --work-dir work_dirs/$@
	$(BIN)/python tools/test.py $(CONFIG) work_dirs/$@/best_*.pth --work-dir work_dirs/$@/test \
		--show-dir '$(CURDIR)/work_dirs/$@/images'
	@echo; echo 'Images with ground truth on the left and predictions on the right: work_dirs/$@/images'

demo-pretrain: install  ## pretraining: what the detector of the shapes gains by it, in work_dirs/demo-pretrain
	$(shapes)
	rm -rf work_dirs/$@
	$(BIN)/python benchmarks/pretraining.py --out-dir work_dirs/$@

demo-heads: install-test  ## heads: RTMDet and LR-ASPP beside SSDLite, DeepLabV3 and peers, in work_dirs/demo-heads
	$(shapes)
	rm -rf work_dirs/$@
	$(BIN)/python benchmarks/heads.py --out-dir work_dirs/$@

test: install-test  ## the default tests
	$(call pytest,$(BIN))

test-slow: install-test  ## the tests that take minutes
	$(call pytest,$(BIN)) -m slow

# Wheels of mmcv with its compiled operators, of the environment's Python.
TAG := $(shell $(firstword $(wildcard $(BIN)/python) $(PYTHON)) -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
space := $(subst ,, )
wheel = $(wildcard $(subst $(space),\ ,$(WHEELS))/$(1)-$(TAG)-*.whl)
MMCV := $(call wheel,mmcv-2.1.0)
OPS := $(call wheel,onedl_mmcv-2.3.6)
skipped = echo 'Skipped: no wheel $(1)-$(TAG)-*.whl in the folder $(WHEELS). Name its folder: WHEELS=FOLDER'
OPENMMLAB := $(VENV)-openmmlab
# The contract, checkpoints, what an import changes, and all steps of both tasks.
TESTS_OPENMMLAB := $(addprefix tests/,test_mobileone.py test_deploy_form.py test_eval_form.py test_fold.py checkpoint \
	compat test_whole_way.py)

$(OPENMMLAB)/.installed: setup.py Makefile
	$(call environment,$(OPENMMLAB),-e '.[$(EXTRAS_OPENMMLAB)]' --find-links '$(WHEELS)' --only-binary mmcv)

test-openmmlab: $(if $(MMCV),$(OPENMMLAB)/.installed)  ## the upstream mm line, in an environment of its own
	@$(if $(MMCV),$(call pytest,$(OPENMMLAB)/bin) -m 'slow or not slow' $(TESTS_OPENMMLAB),$(call skipped,mmcv-2.1.0))

# In a folder of their own, which comes before the environment's mmcv.
test-ops: $(if $(OPS),install-test)  ## mmcv with its compiled operators, beside what else is installed
	@$(if $(OPS),$(BIN)/pip install -q --no-deps --upgrade --target $(VENV)/ops '$(OPS)' && \
		export PYTHONPATH="$$(cd $(VENV)/ops && pwd)" && $(BIN)/python -c 'import torch; import mmcv._ext' && \
		$(call pytest,$(BIN)) -m ops,$(call skipped,onedl_mmcv-2.3.6))

lint: install-test  ## ruff
	$(BIN)/ruff check

card: install  ## the tables of models and the metafiles, with latencies of this machine
	$(BIN)/python tools/model_card.py

# What the pictures of the documentation show; what is there is not made again.
FIGURES := work_dirs/figures
CALIBRATION := $(FIGURES)/calibration
TRAINED_detection := configs/detection/ssdlite_mobileone_s2_shapes.py work_dirs/demo
TRAINED_segmentation := configs/segmentation/lraspp_mobileone_s1_shapes.py work_dirs/demo-seg
RESULTS := $(FIGURES)/peers/benchmark.json $(FIGURES)/formats-detection/formats.json \
	$(FIGURES)/formats-segmentation/formats.json $(FIGURES)/train_step/train_step.json

figures: install-test $(RESULTS)  ## draw docs/images anew; the first time an hour, for what they show
	$(BIN)/python docs/figures.py

$(RESULTS): | install-test
$(FIGURES)/formats-detection/formats.json: | work_dirs/demo/images
$(FIGURES)/formats-segmentation/formats.json: | work_dirs/demo-seg/images

work_dirs/demo/images work_dirs/demo-seg/images:
	$(MAKE) $(patsubst work_dirs/%/images,%,$@)

$(FIGURES)/formats-%/formats.json:
	mkdir -p $(CALIBRATION)
	cp data/shapes/JPEGImages/train_00[0-3]?.jpg $(CALIBRATION)
	$(BIN)/python tools/compare_formats.py $(TRAINED_$*)/best_*.pth --threads 1 --int8 $(CALIBRATION) \
		--out-dir $(@D)

$(FIGURES)/peers/benchmark.json:
	$(BIN)/python tools/benchmark.py --arch s0 s2 s4 --peers --runtime torch onnxruntime openvino --rounds 15 \
		--out-dir $(@D)

$(FIGURES)/train_step/train_step.json:
	$(BIN)/python benchmarks/train_step.py --arch s0 s2 s4 --batch 1 4 8 --rounds 5 --out-dir $(@D)

docs: $(VENV)/.installed-docs  ## the documentation, in docs/_build/html; fails on a broken link or reference
	$(BIN)/python -m sphinx -W --keep-going -q -E -b html docs docs/_build/html
	@echo 'The front page: docs/_build/html/index.html'

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/pip install -e '.[docs]'
	@touch $@

clean:  ## remove what the targets made, but not work_dirs
	rm -rf $(VENV) $(OPENMMLAB) build dist docs/_build *.egg-info mobileone_mm/.mim data/shapes

"""Packaging; the project's other settings are in pyproject.toml."""
import re
import shutil
from itertools import chain
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# mm's tools look for a package's configs, tools and model-index.yml here.
MIM = Path('mobileone_mm', '.mim')


class BuildWithMim(build_py):
    """Put configs, tools and model-index.yml into the package: copies in a wheel, else links."""

    def run(self):
        if not getattr(self, 'editable_mode', False):
            shutil.rmtree(Path(self.build_lib, 'mobileone_mm'), ignore_errors=True)  # modules of an earlier build
        super().run()
        for name in ('configs', 'tools', 'model-index.yml'):
            if getattr(self, 'editable_mode', False):
                link = ROOT / MIM / name
                link.parent.mkdir(exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(Path('..', '..', name), target_is_directory=(ROOT / name).is_dir())
            elif (ROOT / name).is_dir():
                target = Path(self.build_lib, MIM, name)
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy(ROOT / name, Path(self.build_lib, MIM, name))


# An export needs those of its format: onnx, onnxscript and the runtime, or coremltools, or none for
# TorchScript.
ONNX = ['onnx', 'onnxscript', 'onnxruntime']
EXPORT = [*ONNX, 'openvino', 'coremltools']
# Of phones; each an extra of its own, and in the versions that were tried. LiteRT's converter takes any transformers,
# mmpretrain 1.3.6 none from 5 on.
PHONE = {
    'executorch': ['executorch==1.5.1'],
    'litert': ['litert-torch==0.10.0', 'ai-edge-litert==2.3.0', 'ai-edge-quantizer==0.10.0',
               'transformers>=4.53,<5'],
    'mnn': [*ONNX, 'MNN==3.6.1'],
    'ncnn': ['ncnn==1.0.20261020', 'pnnx==20261020'],
}
PYTEST = ['pytest', 'pytest-xdist', 'psutil']

version = re.search(r"__version__ = '(.+)'", (ROOT / 'mobileone_mm' / 'version.py').read_text(encoding='utf-8'))[1]
setup(
    name='mobileone_mm',
    version=version,
    description='MobileOne for OpenMMLab, reparameterized on eval()',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    classifiers=[f'Programming Language :: Python :: 3.{minor}' for minor in range(10, 15)],
    packages=find_packages(include=['mobileone_mm*']),
    # mmengine, mmcv, mmdet and mmsegmentation come from one of two lines, which cannot coexist: see
    # the extras.
    install_requires=['torch>=2.6', 'numpy'],
    extras_require={
        'onedl': ['onedl-mmengine==0.10.12', 'onedl-mmcv==2.3.6', 'onedl-mmdetection==3.5.1',
                  'onedl-mmsegmentation==1.4.2', 'tensorboard'],
        'openmmlab': ['mmengine==0.10.7', 'mmcv>=2.0.0,<2.2.0', 'mmdet==3.3.0', 'mmsegmentation==1.2.2', 'ftfy',
                      'regex', 'tensorboard', 'setuptools<82'],
        # In addition to the extra of the same line.
        'pretraining': ['onedl-mmpretrain==1.3.6'],
        'openmmlab-pretraining': ['mmpretrain==1.2.0'],
        'export': EXPORT,
        **{f'export-{name}': packages for name, packages in PHONE.items()},
        # There is no ExecuTorch for Python 3.14.
        'test': [*EXPORT, *(f"{package}; python_version < '3.14'" if 'executorch' in package else package
                            for package in chain(*PHONE.values())), *PYTEST, 'ruff', 'build'],
        # Sphinx 9 needs Python 3.11.
        'docs': ['sphinx==9.0.4', 'myst-parser==5.2.0', 'furo==2025.12.19', 'sphinx-copybutton==0.5.2'],
        # On the other mm line, where the exporters of phones are not tried again.
        'test-onnx': [*ONNX, *PYTEST],
    },
    cmdclass={'build_py': BuildWithMim},
)

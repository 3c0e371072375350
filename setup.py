"""Package metadata, and the MIM extension.

``mim train mmdet_detrdistill CONFIG`` looks inside the installed package for
``.mim/configs``, ``.mim/tools`` and ``.mim/model-index.yml``. A wheel gets copies of them, written
to the build directory; an editable install gets links in the source tree, so that an edited config
takes effect at once.
"""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = 'mmdet_detrdistill'
MIM_ENTRIES = ('configs', 'tools', 'model-index.yml')


def read_version() -> str:
    """The package's ``__version__``, read as text: nothing has to be installed for it."""
    text = (ROOT / PACKAGE / '__init__.py').read_text(encoding='utf-8')
    found = re.search(r"^__version__\s*=\s*'([^']+)'", text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{PACKAGE}/__init__.py has no line __version__ = '...'")
    return found.group(1)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder; nothing there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()


def copy_entry(source: Path, target: Path) -> None:
    if source.is_dir():
        # no byte code, and nothing that is of use in a clone only
        ignore = shutil.ignore_patterns('__pycache__', '*.pyc', '*.sh')
        shutil.copytree(source, target, ignore=ignore)
    else:
        shutil.copy2(source, target)


def link_entry(source: Path, target: Path) -> None:
    """A relative link; a copy where the file system has no links."""
    try:
        target.symlink_to(os.path.relpath(source, target.parent), source.is_dir())
    except OSError:
        copy_entry(source, target)


class BuildPyWithMim(build_py):
    """Puts ``.mim`` beside the modules: into the wheel's build tree, or into the source tree."""

    def run(self) -> None:
        if self.editable_mode:
            package, place = ROOT / PACKAGE, link_entry
        else:
            package, place = Path(self.build_lib) / PACKAGE, copy_entry
            remove(package)  # nothing of an earlier build, such as a module since deleted
        super().run()
        extension = package / '.mim'
        remove(extension)
        extension.mkdir(parents=True)
        for entry in MIM_ENTRIES:
            place(ROOT / entry, extension / entry)


setup(
    name=PACKAGE,
    version=read_version(),
    description='DETRDistill for MMDetection 3.x: distil any DETR-like detector into another',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='the mmdet_detrdistill authors',
    license='Apache-2.0',
    url='https://arxiv.org/abs/2211.10156',
    project_urls={'Paper': 'https://arxiv.org/abs/2211.10156'},
    keywords=['object detection', 'knowledge distillation', 'DETR', 'OpenMMLab'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.9',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_dir={'': '.'},  # an editable install is then a plain path entry
    include_package_data=False,
    package_data={PACKAGE: ['py.typed']},
    cmdclass={'build_py': BuildPyWithMim},
    python_requires='>=3.9',  # the oldest that is tested, with PyTorch 1.13: docs/compatibility.md
    # MMDetection and its maintained fork share import names, so neither is a hard requirement:
    # pip would install one over the other. compat/environment.py checks what is there.
    install_requires=['torch>=1.13', 'numpy', 'scipy', 'pycocotools'],
    extras_require={
        'openmmlab': [
            'mmengine>=0.10.4,<0.11',
            'mmcv>=2.1.0,<2.2.0',
            'mmdet>=3.3.0,<3.4',
            'mmrazor==1.0.0',
            'joblib',
            'setuptools<81',
        ],
        'onedl': [
            'onedl-mmengine>=0.10.12,<0.11',
            'onedl-mmcv>=2.3.6,<2.4',
            'onedl-mmdetection>=3.5.1,<3.6',
            'mmrazor==1.0.0',
            'joblib',
        ],
        'text': ['transformers>=4.30,<5'],  # Grounding DINO as a teacher
        'fast': ['numba'],  # matching in threads, several times as fast as with SciPy
        # matching on a GPU of compute capability 8.0 or higher
        'gpu': ['torch-linear-assignment>=0.1.0; python_version >= "3.10"'],
        'dev': [
            'numba',
            'transformers>=4.30,<5',
            'pytest',
            'pytest-xdist',
            'ruff',
            'mypy',
            'check-jsonschema; python_version >= "3.10"',
            'zizmor; python_version >= "3.10"',
            'build',
            'pre-commit',
            'matplotlib',
            'jinja2',
            'playwright',
            'tensorboard',
            'onnx',
            'onnxruntime',
        ],
        'docs': [
            'mkdocs>=1.5,<2',
            'mkdocs-material>=9.5,<10',
            'mkdocstrings[python]>=0.26,<2',
            'ipykernel',
            'nbclient',
        ],
    },
)

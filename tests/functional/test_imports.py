"""`functional` stands alone: torch, NumPy and SciPy, and nothing of OpenMMLab."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / 'mmdet_detrdistill' / 'functional'
MODULES = sorted(path.stem for path in FOLDER.glob('*.py') if path.stem != '__init__')
HIDE = """
import sys

HIDDEN = {'mmengine', 'mmcv', 'mmdet', 'mmrazor'}

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *args):
        return None if name.split('.')[0] in HIDDEN else self.finder.find_spec(name, *args)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def run(code):
    command = [sys.executable, '-c', HIDE + code]
    root = FOLDER.parents[1]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_functional_imports_without_openmmlab():
    code = 'from mmdet_detrdistill.functional.logits_kd import logits_kd\n'
    code += '\n'.join(f'import mmdet_detrdistill.functional.{name}' for name in MODULES)
    code += '\nassert not HIDDEN & set(sys.modules)'
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_openmmlab_is_hidden():
    result = run('import mmengine')
    assert result.returncode == 1 and 'ModuleNotFoundError' in result.stderr


@pytest.mark.parametrize('name', MODULES)
def test_no_function_shadows_its_module(name):
    from importlib import import_module

    package = import_module('mmdet_detrdistill.functional')
    assert import_module(f'mmdet_detrdistill.functional.{name}') is getattr(package, name)

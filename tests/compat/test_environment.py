"""A missing or incompatible part is one error at import that says what to install."""

from importlib.metadata import distributions

import pytest

from .interpreter import run_python

# The maintained forks refuse no version of MMCV and do without pkg_resources.
FORK = any(found.metadata['Name'] == 'onedl-mmdetection' for found in distributions())
stock_only = pytest.mark.skipif(FORK, reason='a limit that only stock MMDetection has')

# Hides modules from a fresh interpreter, as if they were not installed.
HIDE = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name in sys.argv[1:] or name.split('.')[0] in sys.argv[1:]
        return None if hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Hiding, sys.meta_path)
"""
REPORT = """
try:
    import mmdet_detrdistill
except ImportError as error:
    print(error)
else:
    print('imported')
"""


def problems_without(*names: str, before: str = '') -> list:
    lines = run_python(HIDE + before + REPORT, *names).splitlines()
    return [line.strip() for line in lines if line.startswith('  - ')]


def test_complete_environment_imports():
    assert run_python(REPORT).strip().endswith('imported')


def test_all_missing_parts_are_in_one_error():
    problems = problems_without('mmdet', 'mmrazor', 'joblib', 'mmcv._ext')
    assert [problem.split()[1] for problem in problems] == ['mmdet', 'mmrazor', 'joblib', 'mmcv']
    assert 'pip install mmrazor==1.0.0' in problems[1]
    assert 'MMCV_WITH_OPS=1' in problems[3]


def test_error_names_both_extras():
    message = run_python(HIDE + REPORT, 'mmengine')
    assert 'mmengine is not installed' in message
    assert '".[openmmlab]"' in message
    assert '".[onedl]"' in message


def test_mmcv_without_operators():
    (problem,) = problems_without('mmcv._ext')
    assert 'mmcv has no compiled operators' in problem


def test_mmcv_operators_of_another_torch():
    break_operators = """
import importlib.machinery

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == 'mmcv._ext':
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise ImportError('_ext.so: undefined symbol: _ZN2at')

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Broken())
"""
    (problem,) = problems_without(before=break_operators)
    assert 'undefined symbol' in problem
    assert '--no-binary mmcv' in problem


@stock_only
def test_mmcv_outside_what_mmdet_accepts():
    (problem,) = problems_without(before="import mmcv; mmcv.__version__ = '2.2.0'")
    assert 'mmdet cannot be imported' in problem
    assert 'mmcv>=2.0.0rc4, <2.2.0' in problem


@stock_only
def test_setuptools_without_pkg_resources():
    (problem,) = problems_without('pkg_resources')
    assert "pip install 'setuptools<81'" in problem


def test_numpy_2_with_a_pytorch_that_was_built_for_numpy_1():
    fails = """
import numpy, torch

def no_array(tensor):  # what such a PyTorch does
    raise RuntimeError('Numpy is not available')

numpy.__version__, torch.__version__, torch.Tensor.numpy = '2.0.2', '2.2.2', no_array
"""
    (problem,) = problems_without(before=fails)
    assert 'PyTorch 2.2.2 cannot use NumPy 2.0.2' in problem
    assert "pip install 'numpy<2'" in problem


def test_missing_system_library():
    fails = """
class NoLibrary:
    def find_spec(self, name, path=None, target=None):
        if name == 'cv2':
            raise ImportError('libGL.so.1: cannot open shared object file')

sys.meta_path.insert(0, NoLibrary())
"""
    (problem,) = problems_without(before=fails)
    assert 'opencv-python-headless' in problem

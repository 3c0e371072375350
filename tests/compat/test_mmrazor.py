"""MMRazor 1.0.0 imports on any PyTorch; what stands in for its quantization refuses to be used."""

import importlib

import mmcv
import pytest

import mmdet_detrdistill
from mmdet_detrdistill.compat import import_mmrazor
from mmdet_detrdistill.compat.mmrazor import accepted_mmcv_version, quantization_placeholder

from .interpreter import run_python

LATER_MMCV = """
import mmcv, mmdet
mmcv.__version__ = '2.3.6'  # what onedl-mmcv reports; its mmdet asserts nothing
import mmdet_detrdistill, mmrazor.models
print(mmcv.__version__, mmrazor.__version__)
"""
STAND_IN = """
import sys, types
name = 'mmrazor.structures.quantization'
real = types.ModuleType(name)
real.BackendConfigs = real.QConfigHandler = 'real'
sys.modules[name] = real
"""
WORKING_QUANTIZATION = f"""
{STAND_IN}
import mmdet_detrdistill, mmrazor.models
assert sys.modules[name] is real
assert mmrazor.models.quantizers.academic_quantizer.BackendConfigs == 'real'
print('kept')
"""
BESIDE_OURS = f"""
{STAND_IN}
import mmrazor.models, mmrazor.engine, mmrazor.registry
from mmengine.registry import DefaultScope, Registry

def registered():
    own = vars(mmrazor.registry).items()
    kinds = [(name, kind) for name, kind in own if isinstance(kind, Registry)]
    return {{(name, key): part for name, kind in kinds for key, part in kind.module_dict.items()}}

before = registered()
import mmdet_detrdistill
after = registered()
assert len(before) > 200
print(*sorted(key for key, part in before.items() if after.get(key) is not part))
print(all(part.__module__.startswith('mmdet_detrdistill.') for key, part in after.items()
          if key not in before), len(after) > len(before))
print(DefaultScope.get_current_instance())
"""


def test_everything_that_distillation_uses_imports():
    for name in ('models.algorithms', 'models.distillers', 'models.losses', 'engine', 'structures'):
        importlib.import_module(f'mmrazor.{name}')
    from mmrazor.registry import MODELS

    assert {'SingleTeacherDistill', 'ConfigurableDistiller', 'PKDLoss'} <= set(MODELS.module_dict)


def test_second_call_changes_nothing():
    before = importlib.import_module('mmrazor.structures.quantization')
    import_mmrazor()
    assert importlib.import_module('mmrazor.structures.quantization') is before
    assert mmdet_detrdistill.compat.import_mmrazor is import_mmrazor


def test_working_quantization_is_not_replaced():
    assert run_python(WORKING_QUANTIZATION).strip() == 'kept'


def test_registered_classes_and_scope_stay_as_they_were():
    """But for the validation loop, which takes a class map into account."""
    replaced = "('LOOPS', 'SingleTeacherDistillValLoop')"
    assert run_python(BESIDE_OURS).split('\n') == [replaced, 'True True', 'None', '']


def test_placeholder_refuses_every_use():
    placeholder = quantization_placeholder('moved in PyTorch 2')
    for name in placeholder.__all__:
        stand_in = getattr(placeholder, name)
        for use in (lambda s: s(), lambda s: s['native'], lambda s: s.replace):
            with pytest.raises(ImportError, match=rf'{name} is not available.*PyTorch 1\.13'):
                use(stand_in)


def test_later_mmcv_is_accepted_and_reports_itself_again():
    assert run_python(LATER_MMCV).split() == ['2.3.6', '1.0.0']


def test_version_is_restored_after_an_error(monkeypatch):
    monkeypatch.setattr(mmcv, '__version__', '2.3.6')
    with pytest.raises(RuntimeError), accepted_mmcv_version():
        assert mmcv.__version__ == '2.1.0'
        raise RuntimeError
    assert mmcv.__version__ == '2.3.6'


def test_accepted_version_is_left_alone(monkeypatch):
    monkeypatch.setattr(mmcv, '__version__', '2.0.1')
    with accepted_mmcv_version():
        assert mmcv.__version__ == '2.0.1'

"""The second device is there in these tests; MMCV's compiled operators get CPU tensors."""

import sys
from typing import Any, Callable, Union

import pytest
import torch
from mmengine.structures import instance_data

from tests.ghost import device


@pytest.fixture(scope='session', autouse=True)
def libraries():
    yield device.register()


@pytest.fixture(scope='session', autouse=True)
def operators(libraries):
    """NMS, which DDQ calls, and RoIAlign of Sparse R-CNN; MMEngine lists the types of a mask."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in (
            ('nms', ['nms']),
            ('roi_align', ['roi_align_forward', 'roi_align_backward']),
        ):
            extension = sys.modules[f'mmcv.ops.{module}'].ext_module
            for name in names:
                patch.setattr(extension, name, on_host(getattr(extension, name)))
        kinds = (*instance_data.IndexType.__args__, device.GhostTensor)
        patch.setattr(instance_data, 'IndexType', Union[kinds])
        yield


def on_host(operator: Callable[..., Any]) -> Callable[..., Any]:
    def call(*tensors: Any, **options: Any) -> Any:
        own = [isinstance(tensor, device.GhostTensor) for tensor in tensors]
        hosts = [tensor.host if is_own else tensor for tensor, is_own in zip(tensors, own)]
        found = operator(*hosts, **options)
        return device.GhostTensor(found) if any(own) and found is not None else found

    return call


@pytest.fixture(scope='session', autouse=True)
def identity(libraries):
    """Parameters keep their identity in `.to`, as they do in a move to a GPU."""
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(swap)

"""All stages and images at once give what MMDetection's assigner gives one by one."""

import pytest
import torch

from mmdet_detrdistill.detectors import build_adapter
from mmdet_detrdistill.detectors.gt_assignment import assign_batch, assign_one_by_one, is_row_by_row
from tests.tiny_detectors import VARIANTS, batch, tiny


@pytest.fixture(scope='module', params=VARIANTS)
def adapter(request):
    return build_adapter(tiny(request.param, num_layers=3).eval())


@pytest.mark.parametrize('empty', ['none', 'one', 'all'])
@pytest.mark.parametrize('label_map', [None, [0, 1, 2], [2, -1, 0], [-1, -1, -1]])
def test_equals_one_by_one(adapter, empty, label_map):
    images, samples = batch(empty=empty)
    with torch.no_grad():
        outputs = adapter.forward_pass(images, samples).outputs
    mapped = None if label_map is None else torch.tensor(label_map)
    assert is_row_by_row(adapter.head.assigner)
    arguments = (adapter.head.assigner, outputs, samples, mapped, range(3))
    found = assign_batch(*arguments)
    torch.testing.assert_close(found, assign_one_by_one(*arguments))
    expected = sum(
        int(mapped is None or mapped[label] >= 0)
        for s in samples
        for label in s.gt_instances.labels
    )
    assert (found >= 0).sum() == 3 * expected  # more queries than objects: none is left over
    if outputs.query_mask is not None:
        torch.testing.assert_close(found == -2, ~outputs.query_mask)


def test_only_the_stages_asked_for(adapter):
    images, samples = batch()
    with torch.no_grad():
        outputs = adapter.forward_pass(images, samples).outputs
    everything = adapter.assign(outputs, samples)
    some = adapter.assign(outputs, samples, stages=[2])
    assert some.shape == everything.shape
    torch.testing.assert_close(some[2], everything[2])
    assert (some[:2] == -2).all()


def test_an_assigner_of_ones_own_is_called_as_it_is():
    adapter = build_adapter(tiny('deformable').eval())
    images, samples = batch()
    with torch.no_grad():
        outputs = adapter.forward_pass(images, samples).outputs
    expected = adapter.assign(outputs, samples)

    class Own(type(adapter.head.assigner)):
        calls = 0

        def assign(self, *args, **kwargs):
            Own.calls += 1
            return super().assign(*args, **kwargs)

    adapter.head.assigner.__class__ = Own
    torch.testing.assert_close(adapter.assign(outputs, samples), expected)
    assert Own.calls == 4  # 2 stages, 2 images

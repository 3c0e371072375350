"""A distilled step waits for the device where it must, and nowhere else."""

from collections import Counter

import pytest
import torch

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors import gt_assignment
from mmdet_detrdistill.functional import matching
from tests.synchronisation import Synchronisations
from tests.tiny_detectors import batch, tiny

LOSSES = {
    'loss_logits_kd': dict(type='LogitsKDLoss'),
    'loss_feature_kd': dict(type='FeatureKDLoss'),
    'loss_assign_kd': dict(type='AssignKDLoss'),
}


def distill(variant):
    return DETRDistill(
        architecture=tiny(variant, seed=1),
        teacher=tiny(variant, seed=2),
        distiller=dict(type='DETRDistiller', distill_losses=LOSSES),
    ).train()


def calls_of(run):
    torch.manual_seed(0)
    with Synchronisations() as record:
        run()
    return record.calls


def test_the_counter_counts():
    values = torch.arange(3.0)

    def run():
        values[values > 1] = values.sum().item()
        bool(values[0] > 5)
        torch.tensor([1.0])

    assert calls_of(run) == {'index by values': 1, 'item': 1, '__bool__': 1, 'tensor': 1}


@pytest.mark.parametrize('variant', ['deformable', 'dino', 'conditional'])
def test_beyond_the_detectors_own_only_the_matching_waits(variant, monkeypatch):
    """Two transfers to the CPU and back, of the ground truth's costs and of the matching's, and the
    look at the losses for NaN. What MMDetection's passes wait for is theirs.
    """
    model = distill(variant)
    images, samples = batch(padded=False)
    transfers = Counter()
    originals = {name: getattr(matching, name) for name in ('to_arrays', 'to_device')}
    for name, original in originals.items():

        def counted(*args, original=original, name=name):
            transfers[name] += 1
            with torch._C.DisableTorchFunction():
                return original(*args)

        monkeypatch.setattr(matching, name, counted)
        monkeypatch.setattr(gt_assignment, name, counted)

    student, teacher = model.student_adapter, model.teacher_adapter

    def detectors():
        forward = student.forward_pass(images, samples)
        student.task_loss(forward, samples)
        with torch.no_grad():
            queries = teacher.forward_pass(images, samples).state.decoder_inputs
        names = ('query', 'query_pos', 'reference_points')
        student.decode(
            forward.state, {n: queries[n] for n in names if n in forward.state.decoder_inputs}
        )

    base = calls_of(detectors)
    transfers.clear()
    extra = calls_of(lambda: model.loss(images, samples))
    extra.subtract(base)
    assert transfers == {'to_arrays': 2, 'to_device': 2}
    # MMDetection's IoU loss makes a tensor of its epsilon, here once and not once per stage.
    expected = {'__bool__': 1, 'new_tensor': 1}
    assert {name: count for name, count in extra.items() if count} == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_synchronisations_on_a_gpu():
    """PyTorch's own count: what a distilled step adds to the steps that it is made of."""
    import warnings

    model = distill('deformable').cuda()
    images, samples = batch(padded=False)
    images = images.cuda()
    samples = [sample.to('cuda') for sample in samples]

    def waits(run):
        run()
        torch.cuda.set_sync_debug_mode('warn')
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always')
                run()
        finally:
            torch.cuda.set_sync_debug_mode('default')
        return sum('synchroniz' in str(warning.message) for warning in caught)

    def detectors():
        model.student.loss(images, samples)
        model.teacher_pass(images, samples)

    added = waits(lambda: model.loss(images, samples)) - waits(detectors)
    assert added <= 3  # two matchings, one look for NaN

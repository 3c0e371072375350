"""PyTorch's own count of what a distilled step waits for on a GPU.

Without one, `tests/ghost` counts on a second device, with the line of each.
"""

import warnings

import pytest
import torch

from mmdet_detrdistill import DETRDistill
from tests.tiny_detectors import batch, tiny

#: costs of the ground truth's assignment and of the matching, and the look for NaN
MOST_WAITS = 3
LOSSES = {
    'loss_logits_kd': dict(type='LogitsKDLoss'),
    'loss_feature_kd': dict(type='FeatureKDLoss'),
    'loss_assign_kd': dict(type='AssignKDLoss'),
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('class_map', [None, [2, 0, -1]])
def test_synchronisations_on_a_gpu(class_map):
    """What a distilled step adds to the student's, the teacher's pass and the injected decoder."""
    distiller = dict(type='DETRDistiller', distill_losses=LOSSES)
    detectors = tiny('deformable', seed=1), tiny('deformable', seed=2)
    model = DETRDistill(*detectors, distiller, class_map=class_map).train().cuda()
    images, samples = batch(padded=False)
    images, samples = images.cuda(), [sample.to('cuda') for sample in samples]

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

    def parts():
        teacher = model.teacher_pass(images, samples)
        student = model.student_adapter.forward_pass(images, samples)
        model.student_adapter.task_loss(student, samples)
        (name,) = model.distiller.injections
        model._pair(student, teacher, samples).injected_pass(name)

    assert waits(lambda: model.loss(images, samples)) - waits(parts) <= MOST_WAITS

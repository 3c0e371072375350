"""The factor over time, by value, and what it switches."""

from types import SimpleNamespace

import pytest

from mmdet_detrdistill import DETRDistill, TeacherQueryInjectionHook
from tests.detectors import batch, tiny

LOSSES = dict(loss_logits_kd=dict(type='LogitsKDLoss'), loss_assign_kd=dict(type='AssignKDLoss'))


def test_value_by_hand():
    """begin 2, end 6, fade 2: 0 before 2, 1 on [2, 4], 0.75 at 4.5, 0.5 at 5, 0 from 6 on."""
    hook = TeacherQueryInjectionHook(begin=2, end=6, fade=2)
    times = [1.9, 2, 4, 4.5, 5, 6, 9]
    assert [hook.factor(now) for now in times] == [0, 1, 1, 0.75, 0.5, 0, 0]
    assert TeacherQueryInjectionHook().factor(1e9) == 1


@pytest.mark.parametrize('options', [dict(begin=3, end=2), dict(fade=1), dict(end=2, fade=3)])
def test_impossible_spans_are_refused(options):
    with pytest.raises(ValueError, match=r'end|fade'):
        TeacherQueryInjectionHook(**options)


@pytest.mark.parametrize(('by_epoch', 'half', 'off'), [(False, 3, 4), (True, 30, 40)])
def test_fades_the_loss_and_then_skips_the_pass(by_epoch, half, off):
    """Half way down the terms are half; at the end the student's decoder runs once, not twice."""
    model = DETRDistill(
        tiny('dino', seed=1),
        tiny('dino', seed=2),
        dict(type='DETRDistiller', distill_losses=LOSSES),
    ).eval()
    model.student_adapter.task_loss = lambda *args: {}  # in eval mode there is none
    hook = TeacherQueryInjectionHook(end=4, fade=2, by_epoch=by_epoch)
    runner = SimpleNamespace(model=model, train_dataloader=range(10))
    found = {}
    for now in (0, half, off):
        runner.iter = now
        hook.before_train_iter(runner, 0)
        found[now] = model.loss(*batch())
    for name in ('cls', 'bbox', 'iou'):
        key = f'loss_assign_kd.{name}'
        assert found[half][key].item() == pytest.approx(found[0][key].item() / 2, rel=1e-5)
    assert not any('assign' in key for key in found[off])
    assert found[off]['loss_logits_kd.cls'] == found[0]['loss_logits_kd.cls']

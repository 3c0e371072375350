"""Factors over time, by value, and what they switch."""

from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub

from mmdet_detrdistill import DETRDistill, LossWeightScheduleHook, TeacherQueryInjectionHook
from mmdet_detrdistill.hooks.schedule import interpolate
from tests.tiny_detectors import batch, tiny

LOSSES = dict(loss_logits_kd=dict(type='LogitsKDLoss'), loss_assign_kd=dict(type='AssignKDLoss'))


def distill(variant='deformable', losses=LOSSES):
    distiller = dict(type='DETRDistiller', distill_losses=losses)
    return DETRDistill(tiny(variant, seed=1), tiny(variant, seed=2), distiller)


def runner_of(model, *hooks, length=10):
    """What the hooks read of a runner; epochs have `length` iterations."""
    hub = MessageHub.get_instance(f'schedule_{id(model)}')
    return SimpleNamespace(
        model=model, train_dataloader=range(length), hooks=list(hooks), message_hub=hub, iter=0
    )


def test_value_by_hand():
    """0 up to 2, in a line to 1 at 4, level to 10, then a step to 0.25; at 2.5 a quarter up."""
    points = [(2, 0), (4, 1), (10, 1), (10, 0.25)]
    times = [0, 2, 2.5, 3, 4, 9.99, 10, 50]
    assert [interpolate(points, now) for now in times] == [0, 0, 0.25, 0.5, 1, 1, 0.25, 0.25]


def test_injection_value_by_hand():
    """begin 2, end 6, fade 2: 0 before 2, 1 on [2, 4], 0.75 at 4.5, 0.5 at 5, 0 from 6 on."""
    hook = TeacherQueryInjectionHook(begin=2, end=6, fade=2)
    times = [1.9, 2, 4, 4.5, 5, 6, 9]
    assert [interpolate(hook.span, now) for now in times] == [0, 1, 1, 0.75, 0.5, 0, 0]
    assert [interpolate(TeacherQueryInjectionHook().span, now) for now in (0, 1e9)] == [1, 1]


@pytest.mark.parametrize('options', [dict(begin=3, end=2), dict(fade=1), dict(end=2, fade=3)])
def test_impossible_spans_are_refused(options):
    with pytest.raises(ValueError, match=r'end|fade'):
        TeacherQueryInjectionHook(**options)


@pytest.mark.parametrize('points', [[], [(0, 1, 2)], [(5, 1), (3, 0)], [(0, -1)]])
def test_impossible_points_are_refused(points):
    with pytest.raises(ValueError, match=r'factors\.loss_feature_kd'):
        LossWeightScheduleHook(dict(loss_feature_kd=points))


def test_unknown_loss_is_refused_before_training():
    runner = runner_of(distill())
    hook = LossWeightScheduleHook(dict(loss_feature_kd=[(0, 1)]))
    with pytest.raises(KeyError, match=r"'loss_feature_kd'; there are \['loss_logits_kd'"):
        hook.before_train(runner)


def test_two_hooks_for_one_loss_are_refused():
    hooks = TeacherQueryInjectionHook(), LossWeightScheduleHook(dict(loss_assign_kd=[(0, 1)]))
    with pytest.raises(ValueError, match='two hooks set the factor of loss_assign_kd'):
        hooks[0].before_train(runner_of(distill(), *hooks))


@pytest.mark.parametrize(('by_epoch', 'expected'), [(True, 0.15), (False, 1.0)])
def test_unit_of_time(by_epoch, expected):
    """Up to 1 over 2 units; after 3 iterations: 0.3 of epochs of ten, or 3 iterations."""
    model = distill()
    hook = LossWeightScheduleHook(dict(loss_logits_kd=[(0, 0), (2, 1)]), by_epoch)
    runner = runner_of(model, hook)
    runner.iter = 3
    hook.before_train_iter(runner, 0)
    assert model.distiller.scale('loss_logits_kd') == pytest.approx(expected)
    assert model.distiller.scale('loss_assign_kd') == 1
    logged = runner.message_hub.get_scalar('train/logits_kd.factor').current()
    assert logged == pytest.approx(expected)


def test_the_teacher_rests_when_all_factors_are_zero():
    model = distill().train()
    stop = [(0, 1), (5, 1), (5, 0)]
    hook = LossWeightScheduleHook(dict.fromkeys(LOSSES, stop), by_epoch=False)
    runner = runner_of(model, hook)
    passes = []
    forward = model.teacher_adapter.forward_pass
    model.teacher_adapter.forward_pass = lambda *args: passes.append(0) or forward(*args)
    for iteration, calls in ((4, 1), (5, 1)):
        runner.iter = iteration
        hook.before_train_iter(runner, 0)
        losses = model.loss(*batch())
        assert len(passes) == calls
    assert not any('_kd' in name for name in losses)


@pytest.mark.parametrize(('by_epoch', 'half', 'off'), [(False, 3, 4), (True, 30, 40)])
def test_fades_the_loss_and_then_skips_the_pass(by_epoch, half, off):
    """Half way down the terms are half; at the end the student's decoder runs once, not twice."""
    model = distill('dino').eval()
    model.student_adapter.task_loss = lambda *args: {}  # in eval mode there is none
    hook = TeacherQueryInjectionHook(end=4, fade=2, by_epoch=by_epoch)
    runner = runner_of(model, hook)
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

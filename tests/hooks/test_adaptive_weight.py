"""Weights that follow the share of a loss: by value, undisturbed, equal on ranks, resumed."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn
from torch.testing import assert_close

from mmdet_detrdistill import AdaptiveLossWeightHook, DETRDistill
from mmdet_detrdistill.distillation.balance import measure
from mmdet_detrdistill.hooks.adaptive_weight import KEY
from tests.ranks import join_group, on_two_ranks
from tests.tiny_detectors import batch, tiny

A, B = 'loss_logits_kd', 'loss_feature_kd'


class Stand(nn.Module):
    """Of a `DETRDistill` what the hook reads; gradients 3 (task), 2 w x (A) and 8 w (B)."""

    distillation_stopped = False

    def __init__(self):
        super().__init__()
        self.student = nn.Linear(1, 1, bias=False)
        self.distiller = SimpleNamespace(
            active=True,
            scale=lambda name: self.scales.get(name, 1.0),
            distill_losses={A: None, B: None},
            pair_losses={name: SimpleNamespace(loss_weight=1.0) for name in (A, B)},
        )
        self.scales = {}

    def data_preprocessor(self, data, training):
        return data

    def loss(self, inputs, samples):
        weight = self.student.weight.sum()
        factors = {
            name: loss.loss_weight * self.distiller.scale(name)
            for name, loss in self.distiller.pair_losses.items()
        }
        found = {'loss_cls': 3 * weight, f'{A}.cls': 2 * factors[A] * inputs * weight}
        return {**found, B: 8 * factors[B] * weight}


def runner_of(model, name='adaptive'):
    return SimpleNamespace(
        model=model,
        iter=0,
        message_hub=MessageHub.get_instance(f'{name}_{id(model)}'),
        optim_wrapper=SimpleNamespace(optim_context=lambda model: nullcontext()),
    )


def run(hook, runner, values, weights=None):
    """A training iteration on each value; weights after each go to `weights`."""
    for value in values:
        data = {'inputs': torch.tensor(float(value)), 'data_samples': []}
        hook.before_train_iter(runner, 0, data)
        losses = runner.model.distiller.pair_losses
        if weights is not None:
            weights.append([losses[name].loss_weight for name in (A, B)])
        runner.iter += 1


def test_value_by_hand():
    """A pulls with 2 x, B with 8, the task with 3: half of it is 0.75 for A, 0.1875 for B.

    Then A pulls twice as strongly: with momentum 0.5 the geometric mean of 2 / 3 and 4 / 3.
    """
    runner = runner_of(Stand())
    hook = AdaptiveLossWeightHook({A: 0.5, B: 0.5}, interval=2, momentum=0.5)
    hook.before_train(runner)
    weights = []
    run(hook, runner, [1, 5, 2], weights)
    assert weights[0] == pytest.approx([0.75, 0.1875])
    assert weights[1] == weights[0]  # not measured
    assert weights[2] == pytest.approx([0.5 / math.sqrt(2 / 3 * 4 / 3), 0.1875])
    logged = runner.message_hub.log_scalars['train/logits_kd.weight'].data[0]
    assert list(logged) == [pair[0] for pair in weights]


def test_schedules_multiply_the_weight():
    runner = runner_of(Stand())
    hook = AdaptiveLossWeightHook({A: 0.5, B: 0.5}, interval=1)
    hook.before_train(runner)
    runner.model.scales = {A: 0.1, B: 0.0}  # B is off: its weight waits
    run(hook, runner, [1])
    assert runner.model.distiller.pair_losses[A].loss_weight == pytest.approx(0.75)
    assert runner.model.distiller.pair_losses[B].loss_weight == 1.0


def test_what_cannot_be_measured_is_left_out():
    """A batch without a gradient, and one whose gradient is not finite."""
    runner = runner_of(Stand())
    hook = AdaptiveLossWeightHook({A: 0.5}, interval=1)
    hook.before_train(runner)
    weights = []
    run(hook, runner, [1, 0, math.inf, math.nan], weights)
    assert [pair[0] for pair in weights] == pytest.approx([0.75] * 4)


@pytest.mark.parametrize(
    'options',
    [
        dict(shares={}),
        dict(shares={A: 0.0}),
        dict(shares={A: 1.0}, by='norm'),
        dict(shares={A: 1.0}, interval=0),
        dict(shares={A: 1.0}, momentum=1.0),
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError):
        AdaptiveLossWeightHook(**options)


def test_losses_that_cannot_be_kept_are_refused_before_training():
    runner = runner_of(Stand())
    with pytest.raises(KeyError, match='loss_typo'):
        AdaptiveLossWeightHook({'loss_typo': 1.0}).before_train(runner)
    runner.model.distiller.pair_losses[A].loss_weight = 0.0
    with pytest.raises(ValueError, match='loss_weight 0'):
        AdaptiveLossWeightHook({A: 1.0}).before_train(runner)


def adapt(rank):
    """50 iterations on other data per rank; 20, then 30 more after a resume."""
    join_group(rank)
    values = [1 + rank + 0.1 * step for step in range(50)]
    found = {}
    for kind, parts in (('whole', [values]), ('resumed', [values[:20], values[20:]])):
        weights, state, start = [], None, 0
        for part in parts:
            runner = runner_of(Stand(), f'{kind}_{start}')
            if state is not None:
                runner.message_hub.load_state_dict(state)
            runner.iter = start
            hook = AdaptiveLossWeightHook({A: 0.5, B: 0.2}, interval=3)
            hook.before_train(runner)
            run(hook, runner, part, weights)
            state, start = runner.message_hub.state_dict(), runner.iter
        found[kind] = torch.tensor(weights, dtype=torch.float64)
    assert KEY in runner.message_hub.runtime_info
    return found


def test_two_ranks_keep_equal_weights_also_after_a_resume(tmp_path):
    first, second = on_two_ranks(adapt, tmp_path)
    for kind in ('whole', 'resumed'):
        assert first[kind].shape == (50, 2)
        assert_close(first[kind], second[kind], rtol=0, atol=0)
    assert_close(first['resumed'], first['whole'])
    assert first['whole'][:, 0].unique().numel() > 5  # they do change


def test_a_measurement_leaves_the_training_as_it_is():
    """Gradient norms of a real distillation at weight 1; batch norms and random numbers stay."""
    losses = {A: dict(type='LogitsKDLoss'), B: dict(type='FeatureKDLoss', normalize=True)}
    distiller = dict(type='DETRDistiller', distill_losses=losses)
    model = DETRDistill(tiny('dino', seed=1), tiny('dino', seed=2), distiller).train()
    images, samples = batch()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.manual_seed(0)
    expected = torch.rand(3)
    data = {'inputs': [image * 50 + 100 for image in images], 'data_samples': samples}
    torch.manual_seed(0)
    norms = measure(model, data)
    assert_close(torch.rand(3), expected)
    for name, buffer in model.named_buffers():
        assert_close(buffer, before[name], rtol=0, atol=0, msg=name)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert set(norms) == {'task', A, B} and min(norms.values()) > 0

    runner = runner_of(model)
    hook = AdaptiveLossWeightHook({A: 0.5, B: 0.2}, interval=1)
    hook.before_train(runner)
    torch.manual_seed(0)
    hook.before_train_iter(runner, 0, data)
    torch.manual_seed(0)
    after = measure(model, data)
    assert after[A] / after['task'] == pytest.approx(0.5, rel=1e-3)
    assert after[B] / after['task'] == pytest.approx(0.2, rel=1e-3)

"""Mixed precision, accumulation, clipping, recomputation, EMA, compilation, beside a plain run."""

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors.pair import DistillPair
from mmdet_detrdistill.losses import FeatureKDLoss, LogitsKDLoss
from tests.tiny_detectors import batch, build, tiny, tiny_config

LOSSES = dict(
    loss_logits_kd=dict(type='LogitsKDLoss'),
    loss_feature_kd=dict(type='FeatureKDLoss'),
    loss_assign_kd=dict(type='AssignKDLoss'),
    loss_aligned_kd=dict(type='AlignedKDLoss'),
)


def make(width=None, **backbone):
    """A tiny pair; fixed batch statistics, so that a step depends on its own images alone."""
    student = tiny_config('deformable', **({} if width is None else dict(width=width)))
    student.backbone.update(norm_eval=True, **backbone)
    distiller = dict(type='DETRDistiller', distill_losses=LOSSES)
    model = DETRDistill(build(student, 1), tiny('deformable', 2), distiller).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    return model


def losses_of(model, inputs=None):
    images, samples = inputs or batch()
    return model(images, samples, mode='loss')


def gradients_of(model, inputs=None):
    model.zero_grad()
    total = model.parse_losses(losses_of(model, inputs))[0]
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def sums(losses):
    """The value of each distillation loss, over its terms."""
    found = {}
    for name, value in losses.items():
        if name.startswith(tuple(LOSSES)):
            found[name.split('.')[0]] = found.get(name.split('.')[0], 0) + float(value)
    return found


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('width', [None, 128])
def test_mixed_precision_is_close(width, dtype):
    """Within a tenth of the plain losses; every gradient is finite."""
    model = make(width)
    plain = sums(losses_of(model))
    with torch.autocast('cpu', dtype):
        losses = losses_of(model)
    found = sums(losses)
    assert set(plain) == set(LOSSES)
    for name, value in found.items():
        assert value != plain[name], name  # it did something
        assert value == pytest.approx(plain[name], rel=0.1), name
    model.parse_losses(losses)[0].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_scaled_float16_steps_as_float32_does():
    """What MMEngine's `AmpOptimWrapper` does on a GPU; on a CPU it refuses to be made."""
    gradients = []
    for dtype in (None, torch.float16):
        model = make()
        images, samples = batch()
        with torch.autocast('cpu', dtype or torch.bfloat16, enabled=dtype is not None):
            total = model.parse_losses(model(images, samples, mode='loss'))[0]
        scaler = torch.amp.GradScaler('cpu', init_scale=2.0**8, enabled=dtype is not None)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scaler.scale(total).backward()
        scaler.unscale_(optimizer)
        before = [p.detach().clone() for p in model.parameters()]
        scaler.step(optimizer)
        gradients.append(torch.cat([(b - p).flatten() for b, p in zip(before, model.parameters())]))
    full, half = gradients
    # by 15 %, since of two nearly equal queries the other one is matched; bits lost make little
    assert (half - full).norm() < 0.3 * full.norm()


@pytest.mark.parametrize('kind', [LogitsKDLoss, FeatureKDLoss])
@pytest.mark.parametrize('preset', ['paper', 'released'])
def test_matching_boxes_and_masks_stay_in_float32(kind, preset):
    """From the same outputs the same bits, with and without mixed precision."""
    model = make()
    loss = kind(preset=preset)
    loss.prepare(model.student_adapter, model.teacher_adapter)
    images, samples = batch()
    with torch.no_grad():
        passes = [
            a.forward_pass(images, samples) for a in (model.student_adapter, model.teacher_adapter)
        ]
        found = []
        for enabled in (False, True):
            pair = DistillPair(model.student_adapter, model.teacher_adapter, *passes, samples)
            with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
                found.append(loss(pair))
    assert_close(found[1], found[0], rtol=0, atol=0)


def test_accumulation_is_the_mean_of_two_gradients():
    model = make()
    halves = [batch(seed=seed) for seed in (0, 1)]
    first, second = (gradients_of(model, half) for half in halves)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    wrapper = OptimWrapper(optimizer, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 2)
    model.zero_grad()
    for half in halves:
        with wrapper.optim_context(model):
            total = model.parse_losses(losses_of(model, half))[0]
        wrapper.update_params(total)
    for name, parameter in model.named_parameters():
        if name in first:
            expected = before[name] - (first[name] + second[name]) / 2
            assert_close(parameter, expected, rtol=1e-4, atol=1e-4, msg=name)


def test_clipping_scales_the_whole_gradient():
    model = make()
    gradients = gradients_of(model)
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    wrapper = OptimWrapper(optimizer, clip_grad=dict(max_norm=0.1))
    wrapper.update_params(model.parse_losses(losses_of(model))[0])
    assert norm > 1
    for name, parameter in model.named_parameters():
        if name in gradients:
            expected = before[name] - gradients[name] * 0.1 / norm
            assert_close(parameter, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_activation_checkpointing_gives_the_same_gradient():
    plain, recomputed = gradients_of(make()), gradients_of(make(with_cp=True))
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


def test_moving_average_follows_the_student_and_shares_the_teacher():
    model = make()
    average = ExponentialMovingAverage(model, momentum=0.25)
    before = {name: p.detach().clone() for name, p in average.module.named_parameters()}
    average.update_parameters(model)  # the first call copies
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average.update_parameters(model)
    for name, parameter in average.module.named_parameters():
        assert_close(parameter, before[name] + 0.25, msg=name)
    assert average.module.teacher is model.teacher
    plain = sums(losses_of(make()))
    average = ExponentialMovingAverage(make())
    assert sums(losses_of(average.module.train())) == pytest.approx(plain, rel=1e-5)


def test_compiled_teacher_backbone_gives_close_losses():
    """Captured by Dynamo and run by its eager backend: a compiler is not needed for the test."""
    model = make()
    plain = sums(losses_of(model))
    keys = list(model.state_dict())
    model.teacher.backbone.compile(backend='aot_eager')
    assert sums(losses_of(model)) == pytest.approx(plain, rel=1e-4)
    assert list(model.state_dict()) == keys

"""What must hold on a GPU as far as a second device without hardware can show it.

    pytest tests/ghost/suite.py

`tests/test_ghost.py` runs this in a process of its own.
"""

import sys
from collections import Counter
from functools import partial

import pytest
import torch

from mmdet_detrdistill import DETRDistill
from tests.ghost import device
from tests.tiny_detectors import VARIANTS, batch, tiny

if not device.AVAILABLE:
    pytest.skip('PyTorch before 2.10 has no backend in Python', allow_module_level=True)
LIBRARIES = device.register()
LOSSES = {
    'loss_logits_kd': 'LogitsKDLoss',
    'loss_feature_kd': 'FeatureKDLoss',
    'loss_assign_kd': 'AssignKDLoss',
    'loss_aligned_kd': 'AlignedKDLoss',
}
SHARED = [
    dict(type='auto'),
    dict(type='RandomBoxInjection', num_queries=5),
    dict(type='GroundTruthBoxInjection', num_queries=5),
]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Parameters keep their identity in `.to`; MMCV's NMS, which DDQ calls, gets CPU tensors."""
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    extension = sys.modules['mmcv.ops.nms'].ext_module
    original = extension.nms

    def nms(boxes, scores, **options):
        found = original(boxes.host, scores.host, **options)
        return device.GhostTensor(found)

    def either(boxes, scores, **options):
        call = nms if isinstance(boxes, device.GhostTensor) else original
        return call(boxes, scores, **options)

    monkeypatch.setattr(extension, 'nms', either)
    yield
    torch.__future__.set_swap_module_params_on_conversion(swap)


def distill(
    variant, preset='paper', losses=tuple(LOSSES), student=None, class_map=None, **loss_options
):
    return DETRDistill(
        architecture=student or tiny(variant, seed=1),
        teacher=tiny(variant, seed=2),
        distiller=dict(
            type='DETRDistiller',
            distill_losses={
                name: dict(
                    type=LOSSES[name],
                    **({} if 'aligned' in name else dict(preset=preset)),
                    **loss_options,
                )
                for name in losses
            },
        ),
        class_map=class_map,
    ).train()


def step(model, images, samples):
    """Losses and gradients, on the CPU."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    losses = model.loss(images, samples)
    total, _ = model.parse_losses(losses)
    total.backward()
    tensors = {name: torch.stack(v) if isinstance(v, list) else v for name, v in losses.items()}
    tensors.update(
        {f'gradient of {n}': p.grad for n, p in model.named_parameters() if p.grad is not None}
    )
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def moved(images, samples):
    return images.to('ghost'), [sample.to('ghost') for sample in samples]


def check_step(model, images, samples):
    expected = step(model, images, samples)
    model.to('ghost')
    found = step(model, *moved(images, samples))
    assert list(found) == list(expected)
    unequal = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not unequal
    return expected


@pytest.mark.parametrize('preset', ['paper', 'released'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_values_and_gradients_are_those_of_the_cpu(variant, preset):
    found = check_step(distill(variant, preset), *batch())
    assert all(any(name in key for key in found) for name in LOSSES)


@pytest.mark.parametrize('case', ['class map', 'unequal width', 'hard negatives', 'shared boxes'])
def test_options_of_a_pair_give_the_values_of_the_cpu(case):
    if case == 'class map':
        model = distill('deformable', class_map=[2, 0, -1])
    elif case == 'unequal width':
        model = distill('deformable', student=tiny('deformable', seed=1, width=64))
    elif case == 'shared boxes':
        model = distill('dino', losses=['loss_aligned_kd'], injection=SHARED)
    else:
        model = distill('deformable', losses=['loss_logits_kd'], negatives='hard')
    check_step(model, *batch())


def waits(run):
    device.WAITS.clear()
    run()
    # MMCV's attention in PyTorch, which stands in for its CUDA kernel, reads shapes
    return Counter(w for w in device.WAITS if 'attn_pytorch' not in w.place)


@pytest.mark.parametrize('class_map', [None, [2, 0, -1]], ids=['same classes', 'class map'])
@pytest.mark.parametrize('preset', ['paper', 'released'])
@pytest.mark.parametrize('variant', ['deformable', 'dino', 'detr'])
def test_what_a_step_waits_for(variant, preset, class_map):
    """Beyond the student's step, the teacher's pass and the injected decoder pass."""
    model = distill(variant, preset, list(LOSSES)[:3], class_map=class_map).to('ghost')
    images, samples = moved(*batch())
    model.loss(images, samples)  # moves what stays on the device

    def parts():
        teacher = model.teacher_pass(images, samples)
        student = model.student_adapter.forward_pass(images, samples)
        model.student_adapter.task_loss(student, samples)
        (name,) = model.distiller.injections
        model._pair(student, teacher, samples).injected_pass(name)

    added = waits(lambda: model.loss(images, samples)) - waits(parts)
    ours = [wait for wait in added.elements() if wait.place.startswith('mmdet_detrdistill')]
    assert sorted(wait.kind for wait in ours) == ['to host', 'to host', 'value'], ours
    others = [wait for wait in added.elements() if wait not in ours]
    # the class weights of MMDetection's cross entropy
    assert all('/cross_entropy_loss.py' in wait.place for wait in others)
    assert len(others) == (variant == 'detr')


@pytest.mark.parametrize('variant', ['dab', 'dino'])
def test_boxes_for_both_decoders_wait_for_nothing(variant):
    found = []
    for rules in (SHARED[:1], SHARED):
        model = distill(variant, losses=['loss_aligned_kd'], injection=rules).to('ghost')
        images, samples = moved(*batch())
        model.loss(images, samples)
        found.append(waits(partial(model.loss, images, samples)))
    added = found[1] - found[0]
    assert not [wait for wait in added.elements() if wait.place.startswith('mmdet_detrdistill')]


def test_the_class_map_moves_once():
    model = distill('deformable', class_map=[2, 0, -1]).to('ghost')
    model.loss(*moved(*batch()))
    kept = model.class_map.label_map
    model.loss(*moved(*batch()))
    assert model.class_map.label_map is kept
    assert isinstance(kept, device.GhostTensor)


@pytest.mark.parametrize('target', ['logits_kd.target_entropy', 'feature_kd.box_iou'])
def test_a_tensor_made_on_the_cpu_is_refused(monkeypatch, target):
    """The planted fault: a loss makes a tensor without a device."""
    module, name = target.split('.')
    module = sys.modules[f'mmdet_detrdistill.functional.{module}']
    original = getattr(module, name)

    def planted(*args, **options):
        value = original(*args, **options)
        return value + torch.zeros(value.shape)

    monkeypatch.setattr(module, name, planted)
    model = distill('deformable').to('ghost')
    with pytest.raises(RuntimeError, match=r'add: expected all tensors on ghost:0.*suite\.py'):
        model.loss(*moved(*batch()))

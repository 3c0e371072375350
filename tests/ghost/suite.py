"""What must hold on a GPU as far as a second device without hardware can show it.

    pytest tests/ghost/suite.py

`tests/test_ghost.py` runs this in a process of its own.
"""

import sys
from collections import Counter
from functools import partial

import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill
from tests.departing_detectors import WORDS
from tests.ghost import device
from tests.support_table import build_tiny
from tests.tiny_detectors import NUM_CLASSES, VARIANTS, batch, tiny

if not device.AVAILABLE:
    pytest.skip('PyTorch before 2.10 has no backend in Python', allow_module_level=True)
LOSSES = {
    'loss_logits_kd': 'LogitsKDLoss',
    'loss_feature_kd': 'FeatureKDLoss',
    'loss_assign_kd': 'AssignKDLoss',
    'loss_aligned_kd': 'AlignedKDLoss',
}
#: student and teacher
PAIRS = [
    ('rtdetr', 'rtdetr'),
    ('sparse_rcnn', 'sparse_rcnn'),
    ('dino', 'codetr'),
    ('dino', 'grounding_dino'),
]


def distill(
    variant,
    preset='paper',
    losses=tuple(LOSSES),
    student=None,
    teacher=None,
    class_map=None,
    unlabelled=None,
    **loss_options,
):
    return DETRDistill(
        architecture=student or tiny(variant, seed=1),
        teacher=teacher or tiny(variant, seed=2),
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
        unlabelled=unlabelled,
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
    assert unequal(found, expected) == []
    return expected


def unequal(found, expected):
    assert list(found) == list(expected)
    return [name for name in expected if not torch.equal(found[name], expected[name])]


@pytest.mark.parametrize('preset', ['paper', 'released'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_values_and_gradients_are_those_of_the_cpu(variant, preset):
    found = check_step(distill(variant, preset), *batch())
    assert all(any(name in key for key in found) for name in LOSSES)


OPTIONS = ['class map', 'unequal width', 'hard negatives', 'shared boxes', 'normalised']


@pytest.mark.parametrize('case', OPTIONS)
def test_options_of_a_pair_give_the_values_of_the_cpu(case):
    if case == 'class map':
        model = distill('deformable', class_map=[2, 0, -1])
    elif case == 'unequal width':
        model = distill('deformable', student=tiny('deformable', seed=1, width=64))
    elif case == 'shared boxes':
        rules = [dict(type='RandomBoxInjection'), dict(type='GroundTruthBoxInjection')]
        model = distill('dino', losses=['loss_aligned_kd'], injection=rules)
    elif case == 'hard negatives':
        model = distill('deformable', losses=['loss_logits_kd'], negatives='hard')
    else:
        teacher = tiny('deformable', seed=2)
        teacher.data_preprocessor = DetDataPreprocessor(mean=[9, 8, 7], std=[3, 2, 1])
        model = distill('deformable', teacher=teacher)
        assert model.teacher_pass.renormalise is not None
    check_step(model, *batch())


@pytest.mark.parametrize('class_map', [None, [2, 0, -1]])
def test_pseudo_labels_are_those_of_the_cpu(class_map):
    model = distill('deformable', class_map=class_map, unlabelled=dict(score_threshold=0.01))
    model.teacher.bbox_head.test_cfg['max_per_img'] = 10
    images, samples = batch()
    samples[1].set_metainfo(dict(unlabelled=True))
    found = check_step(model, images, samples)
    assert found['unlabelled.boxes'] > 0


@pytest.mark.parametrize('pair', PAIRS, ids='-'.join)
def test_families_with_an_adapter_of_their_own_give_the_values_of_the_cpu(pair):
    student, teacher = (build_tiny(family, seed=i + 1) for i, family in enumerate(pair))
    model = distill('', student=student, teacher=teacher)
    if model.teacher_adapter.prompted:
        model.teacher_adapter.set_phrases(WORDS[:NUM_CLASSES])
    expected = check_step(model, *batch())
    if model.teacher_adapter.prompted:  # on the device, where BERT's attention rounds otherwise
        model.teacher_adapter.set_phrases(WORDS[:NUM_CLASSES])
        assert_close(step(model, *moved(*batch())), expected, rtol=1e-3, atol=1e-4)


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
    rules = [dict(type=kind) for kind in ('auto', 'RandomBoxInjection', 'GroundTruthBoxInjection')]
    for given in (rules[:1], rules):
        model = distill(variant, losses=['loss_aligned_kd'], injection=given).to('ghost')
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

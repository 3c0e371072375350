"""A teacher of another size: every logged term equals the slow reference, and what is learned."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch.nn.functional import avg_pool2d
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill
from tests.expected import expected_terms, logged
from tests.tiny_detectors import batch, build, tiny, tiny_config

LOSSES = dict(
    loss_logits_kd='LogitsKDLoss',
    loss_feature_kd='FeatureKDLoss',
    loss_assign_kd='AssignKDLoss',
    loss_aligned_kd='AlignedKDLoss',
)
ALL_LEVELS = [(0, 0), (1, 1), (2, 2), (3, 3)]


def distill(student, teacher, preset='paper', **options):
    """All four losses; `options` go to every loss but that on features."""
    configs = {
        name: dict(type=kind, preset=preset, **({} if 'Feature' in kind else options))
        for name, kind in LOSSES.items()
    }
    del configs['loss_aligned_kd']['preset']
    distiller = dict(type='DETRDistiller', distill_losses=configs)
    return DETRDistill(student, teacher, distiller).train()


def without_dropout(model):
    """Two passes over a batch are equal then, also in training mode."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0


def as_double(model):
    """MMDetection's positional encodings are float32 whatever the weights are."""
    for detector in (model.student, model.teacher):
        detector.positional_encoding.register_forward_hook(lambda *call: call[-1].double())
    return model.double()


def double_batch():
    images, samples = batch()
    for sample in samples:
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.double()
    return images.double(), samples


def check_against_reference(student, teacher, variant, levels=None, rtol=1e-5, **options):
    """In float64; MMCV's NMS, which DDQ needs, is there in float32 only."""
    model = distill(student, teacher, **options)
    without_dropout(model)
    images, samples = batch()
    if variant != 'ddq':
        as_double(model)
        images, samples = double_batch()
    found = logged(model, images, samples)
    if levels is None:
        levels = ALL_LEVELS if variant in ('deformable', 'ddq') else [(0, 0)]
    expected = expected_terms(model, images, samples, levels=levels, variant=variant, **options)
    assert set(found) == set(expected)
    assert all(value > 0 for value in expected.values())
    for name, value in found.items():
        wanted = expected[name].to(value.dtype)
        assert_close(value, wanted, rtol=rtol, atol=0, msg=f'{name}: {value}, not {wanted}')
    return model


@pytest.mark.parametrize('preset', ['paper', 'released'])
@pytest.mark.parametrize('widths', [(64, 96), (96, 64)], ids=str)
@pytest.mark.parametrize('variant', ['detr', 'dab', 'deformable'])
def test_widths(variant, widths, preset):
    own, other = (tiny(variant, seed, width=width) for seed, width in zip((1, 2), widths))
    model = check_against_reference(own, other, variant, preset=preset)
    assert model.distiller.pair_losses['loss_feature_kd'].phi.weight.shape[:2] == widths[::-1]


@pytest.mark.parametrize('widths', [(64, 96), (96, 64)], ids=str)
def test_widths_of_ddq(widths):
    own, other = (tiny('ddq', seed, width=width) for seed, width in zip((1, 2), widths))
    check_against_reference(own, other, 'ddq', rtol=1e-4)


@pytest.mark.parametrize('queries', [(20, 33), (33, 20)], ids=str)
@pytest.mark.parametrize('variant', ['detr', 'deformable'])
def test_numbers_of_queries(variant, queries):
    own, other = (tiny(variant, seed, num_queries=n, width=64) for seed, n in zip((1, 2), queries))
    check_against_reference(own, other, variant)


@pytest.mark.parametrize(
    ('layers', 'pairing'),
    [
        ((3, 6), 'group'),
        ((2, 6), 'group'),
        ((6, 3), 'group'),
        ((6, 2), 'group'),
        ((3, 6), 'last'),
        ((3, 6), 'uniform'),
    ],
    ids=str,
)
def test_decoder_layers(layers, pairing):
    own, other = (
        tiny('deformable', seed, num_layers=n, width=64) for seed, n in zip((1, 2), layers)
    )
    check_against_reference(own, other, 'deformable', pairing=pairing)


@pytest.mark.parametrize(
    ('own', 'other', 'levels'),
    [
        ((16, 32, 64), (8, 16, 32, 64), [(0, 1), (1, 2), (2, 3)]),
        ((8, 16, 32, 64), (16, 32, 64), [(1, 0), (2, 1), (3, 2)]),
        ((8, 16, 32), (8, 16, 32, 64), [(0, 0), (1, 1), (2, 2)]),
        ((16, 32, 64, 128), (8, 16, 32, 64), [(0, 1), (1, 2), (2, 3)]),
        ((8, 16), (16, 32, 64), [(1, 0)]),
    ],
    ids=str,
)
def test_feature_levels_are_paired_by_stride(own, other, levels):
    student, teacher = (
        tiny('deformable', seed, strides=strides, width=64)
        for seed, strides in zip((1, 2), (own, other))
    )
    check_against_reference(student, teacher, 'deformable', levels=levels)


def test_no_shared_level_is_refused_by_name():
    own, other = (tiny('deformable', strides=strides) for strides in ((32, 64), (8, 16)))
    with pytest.raises(ValueError, match=r'strides \[32, 64\], .* \[8, 16\].*loss_feature_kd=None'):
        distill(own, other)


def test_encoder_layers_need_no_pairing():
    """The output is distilled, whatever made it."""
    configs = [tiny_config('deformable', width=64) for _ in range(2)]
    configs[1].encoder.num_layers = 3
    own, other = (build(config, seed) for config, seed in zip(configs, (1, 2)))
    check_against_reference(own, other, 'deformable')


def test_query_projection_is_learned_stored_and_shared():
    """One rule and one decoder pass serve both losses on the teacher's queries."""
    own, other = tiny('deformable', 1, width=64), tiny('deformable', 2, width=96)
    model = distill(own, other)
    losses = model.distiller.pair_losses
    assert losses['loss_assign_kd'].rules == losses['loss_aligned_kd'].rules
    stored = {name for name in model.state_dict() if 'projections' in name}
    assert len(stored) == 4  # weight and bias of content and position, stored once
    assert all(name.startswith('distiller.') for name in stored)
    trained = [name for name, _ in model.named_parameters() if 'projections' in name]
    assert len(trained) == 4  # once each in the optimizer

    passes = {}
    for side in ('student', 'teacher'):
        detector = getattr(model, side)
        for stage in ('forward_encoder', 'forward_decoder'):
            detector.__dict__[stage] = counted(getattr(detector, stage), passes, f'{side} {stage}')
    model.parse_losses(model.loss(*batch()))[0].backward()
    assert passes == {
        'teacher forward_encoder': 1,
        'teacher forward_decoder': 1,
        'student forward_encoder': 1,
        'student forward_decoder': 2,  # on its own queries, and on the teacher's
    }
    for name, parameter in model.named_parameters():
        if 'projections' in name or 'phi' in name:
            assert parameter.grad.abs().sum() > 0, name


def counted(call, counts, name):
    def counting(*args, **kwargs):
        counts[name] = counts.get(name, 0) + 1
        return call(*args, **kwargs)

    return counting


def test_equal_widths_learn_nothing_extra():
    model = distill(tiny('deformable', 1), tiny('deformable', 2, num_queries=15))
    assert not list(model.distiller.parameters())


@MODELS.register_module()
class PoolingPyramid(BaseModule):
    """A backbone of nobody's: average pooling and one convolution per level."""

    def __init__(self):
        super().__init__()
        self.levels = torch.nn.ModuleList(torch.nn.Conv2d(3, 8, kernel_size=1) for _ in range(3))

    def forward(self, images):
        strides = (8, 16, 32)
        return [level(avg_pool2d(images, s)) for level, s in zip(self.levels, strides)]


BACKBONES = {
    'mobilenet': (dict(type='MobileNetV2', widen_factor=0.25, out_indices=(2, 4, 6)), [8, 24, 80]),
    'swin': (
        dict(
            type='SwinTransformer',
            embed_dims=12,
            depths=(1, 1, 1, 1),
            num_heads=(1, 2, 4, 8),
            window_size=4,
            out_indices=(1, 2, 3),
        ),
        [24, 48, 96],
    ),
    'own': (dict(type='PoolingPyramid'), [8, 8, 8]),
}


@pytest.mark.parametrize('name', BACKBONES)
def test_other_backbone_takes_a_step(name):
    """The teacher's is a ResNet; every loss moves the student's."""
    config = tiny_config('deformable', width=64)
    config.backbone, config.neck.in_channels = BACKBONES[name]
    model = distill(build(config, 1), tiny('deformable', 2, width=96))
    parameter = next(model.student.backbone.parameters())
    losses = model.loss(*batch())
    for loss in LOSSES:
        total = sum(value for key, value in losses.items() if key.startswith(loss))
        (gradient,) = torch.autograd.grad(total, parameter, retain_graph=True)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0, loss
    before = parameter.detach().clone()
    model.parse_losses(losses)[0].backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(parameter, before)

"""Levels are paired by stride, once, whatever an image's size and however a backbone rounds."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors import build_adapter
from mmdet_detrdistill.detectors.levels import describe_strides, pair_strides, shared_levels
from mmdet_detrdistill.functional.boxes import cxcywh_to_xyxy, iou_and_giou
from tests.distillation.test_unequal import without_dropout
from tests.tiny_detectors import build, sample_of, tiny, tiny_config

PATCHES = dict(  # maps are rounded down, a ResNet's up
    type='PyramidVisionTransformer',
    num_layers=[1] * 4,
    embed_dims=8,
    num_heads=[1, 1, 2, 4],
    out_indices=(1, 2, 3),
    mlp_ratios=[2] * 4,
    drop_path_rate=0.0,
)
DISTILLER = dict(
    type='DETRDistiller', distill_losses=dict(loss_feature_kd=dict(type='FeatureKDLoss'))
)


def patch_student(variant):
    config = tiny_config(variant, width=64)
    config.backbone = dict(PATCHES)
    config.neck.in_channels = [8, 16, 32]
    if variant == 'dab':
        config.backbone['out_indices'], config.neck.in_channels = (3,), [32]
    return build(config, 1)


class VisionPatches(nn.Module):
    """The map of a DINOv2: one level of 14 pixels, of a whole number of patches or of a padded."""

    def __init__(self, padded):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 14, stride=14)
        self.padding = 13 if padded else 0

    def forward(self, images):
        return [self.layer(nn.functional.pad(images, (0, self.padding, 0, self.padding)))]


@pytest.mark.parametrize('padded', [False, True])
def test_a_level_of_14_pixels_is_measured_exactly(padded):
    config = tiny_config('dino')
    config.neck.in_channels = [8]
    detector = build(config)
    detector.backbone = VisionPatches(padded)
    assert build_adapter(detector).strides == (14, 28, 56, 112)


def odd_batch(side, padded):
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    first = side - 21 if padded else side
    samples = [
        sample_of((first, first), (side, side), [[4, 6, 30, 40], [12, 9, 44, 33]], [0, 2]),
        sample_of((side, side), (side, side), [[20, 5, 60, 50]], [1]),
    ]
    return images, samples


def expected_value(model, images, samples, pairs):
    """Eq. 7 to 9 query by query and level by level; maps start at the same corner."""
    adapters = model.student_adapter, model.teacher_adapter
    sides = [adapter.forward_pass(images, samples) for adapter in adapters]
    assignment = model.teacher_adapter.assign(sides[1].outputs, samples)[-1]
    total = 0
    for image, sample in enumerate(samples):
        side = sample.metainfo['img_shape'][0]
        objects = sample.gt_instances
        for own, other in pairs:
            student, teacher = (
                p.state.memory_maps()[level][image] for p, level in zip(sides, (own, other))
            )
            h, w = (min(student.shape[i], teacher.shape[i]) for i in (1, 2))
            valid = sides[1].state.valid_masks
            valid = torch.ones(h, w) if valid is None else valid[other][image, :h, :w]
            error = (teacher[:, :h, :w] - student[:, :h, :w]).square().sum(0) * valid
            queries = sides[1].outputs.hidden_states[-1, image]
            for query, found in enumerate(assignment[image].tolist()):
                if found < 0:
                    continue
                box = cxcywh_to_xyxy(sides[1].outputs.boxes[-1, image, query])
                iou, _ = iou_and_giou(box, objects.bboxes[found] / side)
                score = sides[1].outputs.logits[-1, image, query].sigmoid().max()
                mask = torch.einsum('c,chw->hw', queries[query], teacher[:, :h, :w])
                size = len(queries) * 64 * valid.sum()
                total += (score * iou).sqrt() * (mask.square() * error).sum() / size
    return total / len(samples)


@pytest.mark.parametrize('padded', [False, True], ids=['whole', 'padded'])
@pytest.mark.parametrize('side', [64, 70, 93])
def test_value_when_backbones_round_differently(side, padded):
    """At 70 the student's strides 32 and 64 give maps of 2 and 1, the teacher's of 3 and 2."""
    model = DETRDistill(patch_student('deformable'), tiny('deformable', 2, width=64), DISTILLER)
    without_dropout(model)
    images, samples = odd_batch(side, padded)
    with torch.no_grad():
        found = model.loss(images, samples)['loss_feature_kd']
        expected = expected_value(model, images, samples, [(i, i) for i in range(4)])
    assert expected > 0
    assert_close(found, expected, rtol=1e-4, atol=0)


def test_single_level_student_keeps_its_partner():
    model = DETRDistill(patch_student('dab'), tiny('deformable', 2, width=64), DISTILLER)
    without_dropout(model)
    for side in (64, 70, 93):
        images, samples = odd_batch(side, padded=True)
        with torch.no_grad():
            found = model.loss(images, samples)['loss_feature_kd']
            expected = expected_value(model, images, samples, [(0, 2)])
        assert_close(found, expected, rtol=1e-4, atol=0)


def test_strides_are_those_of_the_levels_that_enter_the_transformer():
    assert build_adapter(tiny('detr')).strides == (32,)
    assert build_adapter(tiny('deformable')).strides == (8, 16, 32, 64)
    assert build_adapter(tiny('deformable', strides=(16, 32, 64))).strides == (16, 32, 64)
    assert build_adapter(patch_student('deformable')).strides == (8, 16, 32, 64)
    assert build_adapter(patch_student('dab')).strides == (32,)


def test_measuring_leaves_modes_statistics_and_random_numbers_alone():
    detector = tiny('deformable').train()
    detector.backbone.layer1.eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    modes = [module.training for module in detector.modules()]
    state = torch.get_rng_state()
    assert build_adapter(detector).strides
    assert [module.training for module in detector.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_a_detector_of_grey_images():
    config = tiny_config('deformable')
    config.backbone.in_channels = 1
    config.data_preprocessor = dict(type='DetDataPreprocessor', mean=[0.0], std=[1.0])
    assert build_adapter(build(config)).strides == (8, 16, 32, 64)


def test_each_level_has_one_partner():
    assert pair_strides([8, 16, 32], [8, 16, 32]) == [(0, 0), (1, 1), (2, 2)]
    assert pair_strides([16, 32, 64], [8, 16, 32]) == [(0, 1), (1, 2)]
    assert pair_strides([32, 32], [16, 32, 32, 32]) == [(0, 1), (1, 2)]
    with pytest.raises(ValueError, match=r'\[64\], the teacher \[8, 16\].*loss_feature_kd=None'):
        pair_strides([64], [8, 16])


def test_levels_without_a_partner_are_named():
    text = '[16, 32] / [8, 16, 32, 64], distilled: [16, 32], only the teacher has [8, 64]'
    assert describe_strides([16, 32], [8, 16, 32, 64]) == text
    assert describe_strides([8], [8]) == '[8] / [8], distilled: [8]'


def test_maps_that_do_not_grow_with_the_image_are_refused():
    assert shared_levels([(0, 1)], [(8, 8)], [(16, 17), (9, 8)])[0].size == (8, 8)
    with pytest.raises(ValueError, match=r'level 0 has a map of \(8, 8\), .* level 1 .* \(10, 8\)'):
        shared_levels([(0, 1)], [(8, 8)], [(16, 17), (10, 8)])

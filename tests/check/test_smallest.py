"""The smallest image of a pipeline, and a two-stage detector that finds no room in it."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config

from mmdet_detrdistill.check.smallest import last_scales, smallest_image
from mmdet_detrdistill.detectors import build_adapter
from tests import trainings
from tests.tiny_detectors import sample_of, tiny


def smallest(pipeline, shapes=((100, 200),), wrap=None):
    dataset = dict(type='CocoDataset', pipeline=pipeline)
    if wrap is not None:
        dataset = dict(type='MultiImageMixDataset', dataset=dataset, pipeline=wrap)
    return smallest_image(Config(dict(train_dataloader=dict(dataset=dataset))), shapes)


@pytest.mark.parametrize(
    ('transform', 'expected'),
    [
        (dict(type='Resize', scale=(64, 48)), (48, 64)),
        (dict(type='Resize', scale=(64, 48), keep_ratio=True), (32, 64)),
        (dict(type='RandomChoiceResize', scales=[(128, 128), (32, 32)]), (32, 32)),
        (dict(type='RandomChoiceResize', scales=[90, 60], keep_ratio=False), (60, 60)),
        (dict(type='RandomResize', scale=[(128, 90), (96, 64)]), (64, 96)),
        (dict(type='RandomResize', scale=(100, 80), ratio_range=(0.5, 2.0)), (40, 50)),
        (dict(type='mmdet.Resize', scale=(64, 48)), (48, 64)),
        (dict(type='RandomFlip', prob=0.5), None),
    ],
)
def test_one_transform_by_hand(transform, expected):
    assert smallest([dict(type='LoadImageFromFile'), transform]) == expected


def test_the_last_one_of_each_branch_counts():
    large, small = (dict(type='Resize', scale=(side, side)) for side in (90, 30))
    assert smallest([small, large]) == (90, 90)
    branches = [[small, large], [dict(type='RandomFlip'), small]]
    assert smallest([large, dict(type='RandomChoice', transforms=branches)]) == (30, 30)
    assert smallest([small], wrap=[large]) == (90, 90)
    assert smallest([small], wrap=[dict(type='RandomFlip')]) == (30, 30)


def test_stock_pipeline():
    pipeline = get_config('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py').train_pipeline
    assert {scale for scale, _ in last_scales(pipeline)} == {
        (side, 1333) for side in range(480, 801, 32)
    }


def test_an_image_without_room_is_refused_with_its_size():
    """8 x 8, 4 x 4, 2 x 2 and 1 pixels for 100 queries."""
    samples = [sample_of((64, 64), (64, 64), [[4, 4, 30, 40]], [0])]
    images = torch.zeros(1, 3, 64, 64)
    message = r'images of \(64, 64\) pixels give 85 feature pixels, the teacher D\w+ picks 100'
    for variant in ('deformable_two_stage', 'dino'):
        adapter = build_adapter(tiny(variant, num_queries=100), 'teacher')
        with pytest.raises(ValueError, match=message):
            adapter.forward_pass(images, samples)
    for variant in ('deformable', 'ddq'):  # no picking; missing ones are filled up
        adapter = build_adapter(tiny(variant, num_queries=100), 'teacher')
        assert adapter.forward_pass(images, samples).outputs.logits.shape[2] == 100


def shrink_images(config, sides):
    """A DINO teacher, and images of random sizes, of which 16 pixels are too few for it."""
    config.model.teacher = trainings.small_detector('dino', num_layers=3)
    config.model.distiller.distill_losses.pop('loss_assign_kd')
    config.model.distiller.distill_losses.pop('loss_feature_kd')
    resize = config.train_dataloader.dataset.pipeline[2]
    resize.pop('scale'), resize.pop('keep_ratio')
    resize.update(type='RandomChoiceResize', scales=[(side, side) for side in sides])
    config.train_dataloader.update(batch_size=1)


def test_check_and_training_name_teacher_size_and_queries(tmp_path):
    """The first batch is large enough, the smallest scale of the pipeline is not."""
    trainings.draw_images(tmp_path / 'data')
    trainings.save_teacher(tmp_path / 'teacher.pth', 'dino')
    config = trainings.distillation(tmp_path / 'data', tmp_path / 'teacher.pth', epochs=1)
    shrink_images(config, [128, 16])
    pattern = r'images of \(16, 16\) pixels give 6 feature pixels, the teacher DINO picks 12'
    ended = trainings.run_training(config, tmp_path / 'work')
    assert ended.code != 0
    assert re.search(pattern, ended.output)
    ended = trainings.run_tool('check', [str(tmp_path / 'work.py')], tmp_path / 'check.log')
    assert 'FITS' not in ended.output
    assert re.search(pattern, ended.output)

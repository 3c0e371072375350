"""The key `unlabelled` of a config."""

from copy import deepcopy

import pytest
from mmengine.config import Config

from mmdet_detrdistill.checkpoints.export import student_config
from mmdet_detrdistill.config.unlabelled import resolve_unlabelled

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]
COCO = dict(type='CocoDataset', metainfo=dict(classes=('cat',)), pipeline=PIPELINE)


def config_of(dataset, **more):
    return Config(dict(train_dataloader=dict(dataset=deepcopy(dataset)), **more))


def test_images_join_the_training_data_once():
    """Beside any wrapper, with the metainfo that `ConcatDataset` compares."""
    config = config_of(dict(type='RepeatDataset', times=2, dataset=COCO), unlabelled='more')
    resolve_unlabelled(config)
    resolve_unlabelled(config)
    labelled, unlabelled = config.train_dataloader.dataset.datasets
    assert labelled.type == 'RepeatDataset' and labelled.dataset == COCO
    assert unlabelled.type == 'UnlabelledImages' and unlabelled.data_prefix.img == 'more'
    assert unlabelled.pipeline == PIPELINE and unlabelled.metainfo.classes == ('cat',)
    assert 'palette' in unlabelled.metainfo


def test_mixed_images_are_refused():
    """Under a wrapper that mixes images, those of a data set are not packed yet."""
    dataset = dict(type='MultiImageMixDataset', dataset=dict(COCO, pipeline=PIPELINE[:1]))
    with pytest.raises(ValueError, match=r"ends in \['LoadImageFromFile'\], not in PackDetInputs"):
        resolve_unlabelled(config_of(dataset, unlabelled='more'))


def test_exported_student_knows_nothing_of_it():
    config = config_of(COCO, unlabelled='more', model=dict(type='DETR'))
    resolve_unlabelled(config)
    plain = student_config(config)
    assert plain.train_dataloader.dataset == COCO and 'unlabelled' not in plain

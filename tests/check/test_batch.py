"""The batch of a check, and the class names of data and teacher."""

import pytest
import torch
from mmengine.config import Config

from mmdet_detrdistill.check.batch import (
    data_class_names,
    first_batch,
    synthetic_batch,
    teacher_class_names,
)


def test_synthetic_batch_has_padding_objects_and_none():
    data = synthetic_batch((96, 128), num_classes=3)
    assert [tuple(image.shape) for image in data['inputs']] == [(3, 96, 128), (3, 84, 112)]
    objects = [sample.gt_instances for sample in data['data_samples']]
    assert [len(found) for found in objects] == [3, 0]
    boxes = objects[0].bboxes
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([128.0, 96.0, 128.0, 96.0])).all()


@pytest.mark.parametrize('wrap', ['none', 'RepeatDataset', 'ConcatDataset'])
def test_class_names_of_data_that_is_not_read(wrap):
    dataset = dict(type='CocoDataset', ann_file='nowhere.json', metainfo=dict(classes=('a', 'b')))
    if wrap == 'RepeatDataset':
        dataset = dict(type=wrap, times=2, dataset=dataset)
    if wrap == 'ConcatDataset':
        dataset = dict(type=wrap, datasets=[dataset])
    config = Config(dict(train_dataloader=dict(dataset=dataset)))
    assert data_class_names(config) == ['a', 'b']


def test_missing_data_is_replaced_and_said():
    dataset = dict(type='CocoDataset', ann_file='nowhere.json', pipeline=[], _scope_='mmdet')
    loader = dict(dataset=dataset, batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False))
    config = Config(dict(train_dataloader=loader))
    data, source, names = first_batch(config, (96, 128), 80, synthetic=False)
    assert len(data['inputs']) == 2
    assert source == 'synthetic, since nowhere.json is missing'
    assert len(names) == 80


def test_class_names_of_a_teacher_without_checkpoint():
    path = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'
    assert teacher_class_names(path, 80)[:2] == ['person', 'bicycle']
    assert teacher_class_names(dict(cfg_path=path), 80)[0] == 'person'
    assert teacher_class_names(path, 5) is None  # its head was changed: other classes
    assert teacher_class_names(dict(type='DETR'), 80) is None

"""The batch of a check, and the class names of data and teacher."""

import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mmdet_detrdistill.check.batch import (
    data_class_names,
    describe_labels,
    first_batch,
    synthetic_batch,
    teacher_class_names,
)
from tests.tiny_detectors import build, tiny, tiny_config


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
    student = SimpleNamespace(num_classes=80, detector=tiny('detr'))
    data, source, names, labels = first_batch(config, (96, 128), student, synthetic=False)
    assert len(data['inputs']) == 2
    assert source == 'synthetic, since nowhere.json is missing'
    assert (len(names), labels) == (80, [])


@pytest.mark.parametrize('channels', [1, 4])
def test_synthetic_images_have_the_channels_of_the_detector(channels):
    detector = tiny_config('deformable')
    detector.backbone.in_channels = channels
    student = SimpleNamespace(num_classes=3, detector=build(detector))
    data, *_ = first_batch(Config(dict()), (96, 128), student, synthetic=True)
    assert [image.shape[0] for image in data['inputs']] == [channels, channels]


def write_shapes(path, **changes):
    image = dict(id=1, file_name='a.png', width=40, height=40)
    label = dict(id=7, image_id=1, category_id=2, bbox=[1, 1, 9, 9], area=81, iscrowd=0)
    content = dict(images=[image], annotations=[label], categories=[dict(id=2, name='cat')])
    path.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize('classes', [('cat',), ('dog',), 'cat'])
def test_annotations_of_a_plain_config_are_read(tmp_path, classes):
    """Also without `coco_format`, and under wrappers; nothing labelled stops the check."""
    write_shapes(tmp_path / 'a.json')
    leaf = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='a.json')
    leaf['metainfo'] = dict(classes=classes)
    joined = dict(type='ConcatDataset', datasets=[leaf])
    loader = dict(dataset=dict(type='RepeatDataset', times=2, dataset=joined))
    config = Config(dict(train_dataloader=loader, val_dataloader=None))
    if classes == ('cat',):
        assert describe_labels(config) == [('train labels', '1 objects')]
        return
    message = 'no object of the classes dog is labelled' if 'dog' in classes else r"\('cat',\)"
    with pytest.raises(ValueError, match=message):
        describe_labels(config)


def test_class_names_of_a_teacher_without_checkpoint():
    path = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'
    assert teacher_class_names(path, 80)[:2] == ['person', 'bicycle']
    assert teacher_class_names(dict(cfg_path=path), 80)[0] == 'person'
    assert teacher_class_names(path, 5) is None  # its head was changed: other classes
    assert teacher_class_names(dict(type='DETR'), 80) is None

"""What the config check measures, by value."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.check.model import (
    count_flops,
    data_class_names,
    describe_levels,
    first_batch,
    gradient_norms,
    synthetic_batch,
    teacher_class_names,
    verdict,
)
from tests.tiny_detectors import batch, tiny


def test_verdict_by_hand():
    """Half the task loss's gradient is aimed at; between 0.05 and 2 times is sane."""
    assert verdict(3.0, 2.0, 1.0) == ', sane (1.5 x task)'
    assert verdict(20.0, 2.0, 1.0) == ', 10 x task: try loss_weight=0.05 for 0.5 x'
    assert verdict(0.02, 2.0, 3.0) == ', 0.01 x task: try loss_weight=1.5e+02 for 0.5 x'
    assert verdict(0.0, 2.0, 1.0) == ', no gradient in this batch'
    assert verdict(3.0, 2.0, None) == ''


def test_gradient_norms_are_those_of_each_loss_alone():
    losses = dict(
        loss_logits_kd=dict(type='LogitsKDLoss'), loss_feature_kd=dict(type='FeatureKDLoss')
    )
    model = DETRDistill(
        tiny('detr', 1, width=64),
        tiny('detr', 2, width=64),
        dict(type='DETRDistiller', distill_losses=losses),
    ).train()
    found = model.loss(*batch())
    norms = gradient_norms(model, found)
    assert list(norms) == ['task', 'loss_logits_kd', 'loss_feature_kd']
    for name, (value, norm) in norms.items():
        own = [v for key, v in found.items() if key.split('.')[0] == name]
        if name == 'task':
            own = [v for key, v in found.items() if '_kd' not in key]
        model.zero_grad()
        sum(own).backward(retain_graph=True)
        gradients = [p.grad.flatten() for p in model.student.parameters() if p.grad is not None]
        assert value == pytest.approx(float(sum(own)))
        assert norm == pytest.approx(float(torch.cat(gradients).norm()), rel=1e-4)


def test_flops_by_hand():
    """A 3 -> 5 layer on 4 rows of 2 images: 2 * 3 * 5 * 4 per image."""
    layer = torch.nn.Linear(3, 5, bias=False).train()
    images = torch.rand(2, 4, 3)
    adapter = SimpleNamespace(
        detector=layer, forward_pass=lambda images, samples: layer(1e4 * images)
    )
    assert count_flops(adapter, images, []) == f'{2 * 3 * 5 * 4 / 1e9:.2f}'
    wide = torch.nn.Linear(3000, 50000, bias=False)
    adapter = SimpleNamespace(detector=wide, forward_pass=lambda images, samples: wide(images))
    assert count_flops(adapter, torch.rand(2, 4, 3000), []) == '1.20'
    assert layer.training


def test_strides_of_odd_pictures():
    """263 pixels at stride 64 are a map of 5: maps are rounded up."""
    model = DETRDistill(
        tiny('deformable', 1, width=64, strides=(16, 32, 64)),
        tiny('deformable', 2, width=64),
        dict(type='DETRDistiller', distill_losses=dict(loss_feature_kd=dict(type='FeatureKDLoss'))),
    )
    _, samples = batch(padded=False)
    for sample in samples:
        sample.set_metainfo(dict(batch_input_shape=(256, 263), img_shape=(256, 263)))
    rows = describe_levels(model, torch.rand(2, 3, 256, 263), samples)
    assert rows == [('feature strides', '[16, 32, 64] / [8, 16, 32, 64], distilled: [16, 32, 64]')]


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

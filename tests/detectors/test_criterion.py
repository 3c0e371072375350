"""The criterion of an adapter is the head's own three losses, query by query."""

import pytest
import torch
from mmdet.models.losses import VarifocalLoss
from torch import nn
from torch.testing import assert_close

from mmdet_detrdistill.detectors import DetectorAdapter, RTDETRAdapter
from tests.functional.cases import Draw
from tests.functional.test_assign_kd import corners, mmdet_head


@pytest.mark.parametrize('kind', ['softmax', 'focal', 'quality_focal', 'varifocal'])
def test_criterion_adds_up_to_the_heads_losses(kind):
    draw, head = Draw(), mmdet_head('focal' if kind == 'varifocal' else kind)
    adapter = object.__new__(RTDETRAdapter if kind == 'varifocal' else DetectorAdapter)
    adapter.detector = nn.Module()
    adapter.detector.bbox_head = head
    if kind == 'varifocal':
        head.loss_cls = VarifocalLoss()
    criterion = adapter.criterion()
    logits, labels = draw.normal(9, 3 + (kind == 'softmax')), draw.integers(4, 9)
    boxes, target_boxes, iou = draw.boxes(9), draw.boxes(9), draw.uniform(9) * (labels < 3)
    target = dict(
        quality_focal=(labels, iou),
        varifocal=nn.functional.one_hot(labels, 4)[:, :3] * iou.unsqueeze(1),
    ).get(kind, labels)
    weights = torch.ones(9, 4, dtype=boxes.dtype)
    box_pair, corner_pair = (boxes, target_boxes), (corners(boxes), corners(target_boxes))
    for found, expected in (
        (criterion.cls(logits, labels, lambda: iou), head.loss_cls(logits, target, avg_factor=7.0)),
        (criterion.bbox(*box_pair), head.loss_bbox(*box_pair, weights, avg_factor=7.0)),
        (criterion.iou(*corner_pair), head.loss_iou(*corner_pair, weights, avg_factor=7.0)),
    ):
        assert found.shape == (9,)
        assert_close(found.sum() / 7, expected)
    assert criterion.background_weight == head.bg_cls_weight

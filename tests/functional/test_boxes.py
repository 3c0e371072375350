import pytest
import torch
from torch.testing import assert_close

from mmdet_detrdistill.functional.boxes import (
    clamp_to_image,
    cxcywh_to_xyxy,
    iou_and_giou,
    xyxy_to_cxcywh,
)
from tests import reference_terms


def box(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_value_by_hand():
    # a = [0.2, 0.4] x [0.4, 0.8], b = [0.3, 0.7] x [0.4, 0.6].
    # inter = 0.1 * 0.2 = 0.02; union = 0.08 + 0.08 - 0.02 = 0.14; hull = 0.5 * 0.4 = 0.2.
    # IoU = 1 / 7; GIoU = 1 / 7 - 0.06 / 0.2 = 1 / 7 - 0.3.
    iou, giou = iou_and_giou(box(0.2, 0.4, 0.4, 0.8), box(0.3, 0.4, 0.7, 0.6))
    assert_close(iou, box(1 / 7)[0])
    assert_close(giou, box(1 / 7 - 0.3)[0])


def test_disjoint_boxes_have_negative_giou():
    # Two squares of side 1 in a hull of 3 x 1: IoU 0, GIoU 0 - (3 - 2) / 3.
    iou, giou = iou_and_giou(box(0, 0, 1, 1), box(2, 0, 3, 1))
    assert_close(iou, box(0.0)[0])
    assert_close(giou, box(-1 / 3)[0])


def test_equal_boxes_have_giou_one(draw):
    boxes_xyxy = cxcywh_to_xyxy(draw.boxes(20))
    iou, giou = iou_and_giou(boxes_xyxy, boxes_xyxy)
    assert_close(iou, torch.ones_like(iou))
    assert_close(giou, torch.ones_like(giou))


def test_convention_cxcywh_to_xyxy():
    # Centre (0.3, 0.5), width 0.2, height 0.4. With w and h swapped x1 would be 0.1.
    assert_close(cxcywh_to_xyxy(box(0.3, 0.5, 0.2, 0.4)), box(0.2, 0.3, 0.4, 0.7))


def test_convention_xyxy_to_cxcywh():
    assert_close(xyxy_to_cxcywh(box(0.2, 0.3, 0.4, 0.7)), box(0.3, 0.5, 0.2, 0.4))


def test_conversion_round_trip(draw):
    boxes = draw.boxes(4, 5)
    assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)


def test_convention_clamp_to_image():
    # x from -0.2 to 0.2 becomes 0 to 0.2; y from 0.8 to 1.2 becomes 0.8 to 1.
    assert_close(clamp_to_image(box(0.0, 1.0, 0.4, 0.4)), box(0.1, 0.9, 0.2, 0.2))


def test_clamp_leaves_boxes_inside_alone():
    inside = box(0.5, 0.4, 0.3, 0.8)
    assert_close(clamp_to_image(inside), inside)


@pytest.mark.parametrize('scale', [1.0, 640.0])
def test_convention_iou_of_any_common_unit(draw, scale):
    a, b = cxcywh_to_xyxy(draw.boxes(9)), cxcywh_to_xyxy(draw.boxes(9))
    iou, giou = iou_and_giou(a * scale, b * scale)
    expected = [reference_terms.iou_and_giou(p, q) for p, q in zip(a.tolist(), b.tolist())]
    assert_close(torch.stack([iou, giou], dim=-1), torch.tensor(expected, dtype=iou.dtype))


def test_convention_broadcasts(draw):
    a, b = cxcywh_to_xyxy(draw.boxes(2, 3)), cxcywh_to_xyxy(draw.boxes(2, 5))
    iou, giou = iou_and_giou(a[:, :, None], b[:, None])
    assert iou.shape == giou.shape == (2, 3, 5)
    one_iou, one_giou = iou_and_giou(a[1, 2], b[1, 4])
    assert_close(iou[1, 2, 4], one_iou)
    assert_close(giou[1, 2, 4], one_giou)


def test_gradcheck(draw):
    a = cxcywh_to_xyxy(draw.boxes(6)).requires_grad_()
    b = cxcywh_to_xyxy(draw.boxes(6)).requires_grad_()
    assert torch.autograd.gradcheck(iou_and_giou, (a, b))


def test_numeric_stability():
    # Boxes without area: finite values and gradients.
    boxes_xyxy = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.2, 0.6]], requires_grad=True)
    iou, giou = iou_and_giou(boxes_xyxy[:, None], boxes_xyxy[None])
    (iou.sum() + giou.sum()).backward()
    for value in (iou, giou, boxes_xyxy.grad):
        assert value.isfinite().all()

"""Boxes in [0, 1] of the image: `boxes` are cxcywh, `boxes_xyxy` are x1y1x2y2."""

from typing import Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert centre form to corner form.

    Args:
        boxes: (..., 4), (cx, cy, w, h).

    Returns:
        (..., 4), (x1, y1, x2, y2); `xyxy_to_cxcywh` takes it back.
    """
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Convert corner form (..., 4), (x1, y1, x2, y2), to centre form (..., 4), (cx, cy, w, h)."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), dim=-1)


def scale_boxes(boxes: Tensor, vertical: float, horizontal: float) -> Tensor:
    """Times two numbers, y and x apart; (..., 4) of any form whose coordinates alternate x, y."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1 * horizontal, y1 * vertical, x2 * horizontal, y2 * vertical), dim=-1)


def clamp_to_image(boxes: Tensor) -> Tensor:
    """Cut boxes (..., 4), cxcywh, at the image's border [0, 1]."""
    return xyxy_to_cxcywh(cxcywh_to_xyxy(boxes).clamp(0, 1))


def iou_and_giou(boxes_xyxy: Tensor, other_xyxy: Tensor) -> Tuple[Tensor, Tensor]:
    """Intersection over union, and generalised IoU (Rezatofighi et al., 2019, Eq. 2).

    Convention: broadcasts like arithmetic; for all pairs pass (..., N, 1, 4) and (..., 1, M, 4).
    Corners must be ordered (x1 <= x2, y1 <= y2), which is not checked.

    Args:
        boxes_xyxy: (..., 4), any common unit.
        other_xyxy: (..., 4), same unit.

    Returns:
        IoU in [0, 1] and GIoU in (-1, 1], each of the broadcast shape without the 4;
        GIoU <= IoU, both 1 for two equal boxes of positive area.
    """
    ax1, ay1, ax2, ay2 = boxes_xyxy.unbind(-1)
    bx1, by1, bx2, by2 = other_xyxy.unbind(-1)
    eps = 1e-9  # below any area of a pixel; keeps gradients of boxes without area small
    inter = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0) * (
        torch.minimum(ay2, by2) - torch.maximum(ay1, by1)
    ).clamp(min=0)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    hull = (torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)) * (
        torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    )
    iou = inter / union.clamp(min=eps)
    return iou, iou - (hull - union) / hull.clamp(min=eps)


def pad_objects(gt_boxes: Sequence[Tensor], dtype: torch.dtype) -> Tuple[Tensor, Tensor]:
    """Stack the objects of a batch, without a host-device synchronisation.

    Args:
        gt_boxes: per image (M_b, 4), cxcywh.
        dtype: of the result.

    Returns:
        (B, M, 4) x1y1x2y2 with M = max M_b + 1, and (B, M) bool, True = an object.
    """
    boxes = pad_sequence([F.pad(boxes, (0, 0, 0, 1)) for boxes in gt_boxes], batch_first=True)
    ones = [F.pad(torch.ones_like(boxes[:, 0]), (0, 1)) for boxes in gt_boxes]
    return cxcywh_to_xyxy(boxes.to(dtype)), pad_sequence(ones, batch_first=True) > 0


def best_giou(boxes: Tensor, gt_boxes: Sequence[Tensor]) -> Tensor:
    """GIoU of each box with the object that it overlaps best.

    Args:
        boxes: (..., B, N, 4), cxcywh.
        gt_boxes: per image (M_b, 4), cxcywh, same unit.

    Returns:
        (..., B, N) in [-1, 1]; -1 in an image without objects.
    """
    corners, exists = pad_objects(gt_boxes, boxes.dtype)
    _, giou = iou_and_giou(cxcywh_to_xyxy(boxes).unsqueeze(-2), corners.unsqueeze(1))
    return giou.masked_fill(~exists.unsqueeze(1), -1).amax(-1)

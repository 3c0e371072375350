"""Boxes in [0, 1] of the image: `boxes` are cxcywh, `boxes_xyxy` are x1y1x2y2."""

from typing import Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from .transfer import pad_rows, to_device

EPS = 1e-9  # below any area of a pixel; keeps gradients of boxes without area small


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert centre form to corner form.

    Args:
        boxes: (..., 4), (cx, cy, w, h).

    Returns:
        (..., 4), (x1, y1, x2, y2); `xyxy_to_cxcywh` takes it back.
    """
    centre, size = boxes.split(2, -1)
    return torch.cat((centre.sub(size, alpha=0.5), centre.add(size, alpha=0.5)), dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Convert corner form (..., 4), (x1, y1, x2, y2), to centre form (..., 4), (cx, cy, w, h)."""
    low, high = boxes_xyxy.split(2, -1)
    size = high - low
    return torch.cat((low.add(size, alpha=0.5), size), dim=-1)


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
    iou, union, low, high = _iou(boxes_xyxy, other_xyxy)
    return iou, iou + union / _area(low, high).clamp(min=EPS) - 1


def giou_distance(boxes_xyxy: Tensor, other_xyxy: Tensor) -> Tensor:
    """Compute 1 - GIoU, in [0, 2); see `iou_and_giou`."""
    iou, union, low, high = _iou(boxes_xyxy, other_xyxy)
    return 2 - (iou + union / _area(low, high).clamp(min=EPS))


def box_iou(boxes_xyxy: Tensor, other_xyxy: Tensor) -> Tensor:
    """Intersection over union alone; see `iou_and_giou`."""
    return _iou(boxes_xyxy, other_xyxy)[0]


def _iou(boxes_xyxy: Tensor, other_xyxy: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """IoU, area of the union, and both corners of the hull."""
    hull_low, high = torch.minimum(boxes_xyxy, other_xyxy).split(2, -1)
    low, hull_high = torch.maximum(boxes_xyxy, other_xyxy).split(2, -1)
    width, height = (high - low).clamp(min=0).unbind(-1)
    overlap = width * height
    areas = _area(*boxes_xyxy.split(2, -1)) + _area(*other_xyxy.split(2, -1))
    union = (areas - overlap).clamp(min=EPS)
    return overlap / union, union, hull_low, hull_high


def _area(low: Tensor, high: Tensor) -> Tensor:
    width, height = (high - low).unbind(-1)
    return width * height


def pad_objects(gt_boxes: Sequence[Tensor], dtype: torch.dtype) -> Tuple[Tensor, Tensor]:
    """Stack the objects of a batch, without a host-device synchronisation.

    Args:
        gt_boxes: per image (M_b, 4), cxcywh.
        dtype: of the result.

    Returns:
        (B, M, 4) x1y1x2y2 with M = max(M_b, 1), and (B, M) bool, True = an object.
    """
    boxes = pad_rows(gt_boxes)
    counts = to_device(np.array([[len(found)] for found in gt_boxes]), boxes.device)
    exists = torch.arange(boxes.shape[1], device=boxes.device) < counts
    return cxcywh_to_xyxy(boxes.to(dtype)), exists


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

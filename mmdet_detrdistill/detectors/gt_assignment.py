"""Assignment to the ground truth for all stages and images of a batch at once."""

from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmdet.models.task_modules.assigners import (
    BBoxL1Cost,
    ClassificationCost,
    FocalLossCost,
    HungarianAssigner,
    IoUCost,
)
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..functional.boxes import cxcywh_to_xyxy, iou_and_giou, scale_boxes
from ..functional.matching import to_arrays, to_device
from ..functional.stages import pick_stages
from .outputs import DecoderOutputs

ROW_BY_ROW = (FocalLossCost, ClassificationCost, BBoxL1Cost, IoUCost)


def is_row_by_row(assigner: Any) -> bool:
    """Tell whether this is MMDetection's assigner, with costs that treat each query alone."""
    return type(assigner) is HungarianAssigner and all(
        type(cost) in ROW_BY_ROW and not getattr(cost, 'binary_input', False)
        for cost in assigner.match_costs
    )


def assign_batch(
    assigner: HungarianAssigner,
    outputs: DecoderOutputs,
    samples: List[Any],
    label_map: Optional[Tensor],
    stages: Sequence[int],
) -> Tensor:
    """Assign as `assigner` does per stage and image, with one transfer to the CPU.

    Args: see `DetectorAdapter.assign`.

    Returns:
        (P, B, N) int64 for the P `stages`.
    """
    logits, boxes = pick_stages(outputs.logits, stages), pick_stages(outputs.boxes, stages)
    num_stages, num_images, num_queries = logits.shape[:3]
    rows = logits.new_ones(logits.shape[:3])
    if outputs.query_mask is not None:
        rows = pick_stages(outputs.query_mask, stages).to(logits.dtype)
    costs, known = [], []
    for image, sample in enumerate(samples):
        objects, size = sample.gt_instances, sample.metainfo['img_shape'][:2]
        labels = objects.labels
        if label_map is not None:
            labels = label_map.to(labels.device)[labels]
        known.append((labels >= 0).to(logits.dtype))
        predicted = InstanceData(
            scores=logits[:, image].flatten(0, 1),
            bboxes=scale_boxes(cxcywh_to_xyxy(boxes[:, image].flatten(0, 1)), *size),
        )
        objects = InstanceData(labels=labels.clamp(min=0), bboxes=objects.bboxes)
        terms = [_cost(cost, predicted, objects, size) for cost in assigner.match_costs]
        costs.append(torch.stack(terms).sum(0).to(logits.dtype))
    moved = to_arrays([tensor.contiguous() for tensor in (rows, *known, *costs)])
    kept, known_arrays, cost_arrays = (
        moved[0] > 0,
        moved[1 : 1 + num_images],
        moved[1 + num_images :],
    )
    assignment = np.where(kept, -1, -2)
    for image in range(num_images):
        columns = known_arrays[image].nonzero()[0]
        cost = cost_arrays[image].reshape(num_stages, num_queries, -1)
        for stage in range(num_stages):
            queries = kept[stage, image].nonzero()[0]
            found, target_boxes = linear_sum_assignment(cost[stage][np.ix_(queries, columns)])
            assignment[stage, image, queries[found]] = columns[target_boxes]
    return to_device(assignment, logits.device)


def assign_one_by_one(
    assigner: Any,
    outputs: DecoderOutputs,
    samples: List[Any],
    label_map: Optional[Tensor],
    stages: Sequence[int],
) -> Tensor:
    """Assign with any assigner, called per stage and image."""
    shape = (len(stages), *outputs.logits.shape[1:3])
    assignment = outputs.logits.new_full(shape, -2, dtype=torch.long)
    for image, sample in enumerate(samples):
        size = sample.metainfo['img_shape'][:2]
        objects, known = sample.gt_instances, None
        if label_map is not None:
            labels = label_map.to(objects.labels.device)[objects.labels]
            known = (labels >= 0).nonzero().flatten()
            objects = InstanceData(bboxes=objects.bboxes[known], labels=labels[known])
        for number, stage in enumerate(stages):
            rows = slice(None) if outputs.query_mask is None else outputs.query_mask[stage, image]
            corners = scale_boxes(cxcywh_to_xyxy(outputs.boxes[stage, image]), *size)
            result = assigner.assign(
                pred_instances=InstanceData(
                    scores=outputs.logits[stage, image][rows], bboxes=corners[rows]
                ),
                gt_instances=objects,
                img_meta=sample.metainfo,
            )
            found = result.gt_inds - 1
            if known is not None and known.numel():
                found = torch.where(found < 0, found, known[found.clamp(min=0)])
            assignment[number, image, rows] = found
    return assignment


def _cost(
    cost: Any, predicted: InstanceData, objects: InstanceData, size: Tuple[int, int]
) -> Tensor:
    """Compute MMDetection's cost without its small tensors, which force a synchronisation."""
    own, target_boxes = predicted.bboxes, objects.bboxes
    if type(cost) is IoUCost and cost.iou_mode in ('iou', 'giou'):
        iou, giou = iou_and_giou(own.unsqueeze(1), target_boxes.unsqueeze(0))
        return -cost.weight * (iou if cost.iou_mode == 'iou' else giou)
    if type(cost) is not BBoxL1Cost:
        return cost(predicted, objects)
    if cost.box_format == 'xywh':
        own, target_boxes = bbox_xyxy_to_cxcywh(own), bbox_xyxy_to_cxcywh(target_boxes)
    height, width = size
    own, target_boxes = (scale_boxes(value, 1 / height, 1 / width) for value in (own, target_boxes))
    return torch.cdist(own, target_boxes, p=1) * cost.weight

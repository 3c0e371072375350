"""Assignment to the ground truth for all stages and images of a batch at once."""

from typing import Any, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from mmdet.models.task_modules.assigners import (
    BBoxL1Cost,
    ClassificationCost,
    FocalLossCost,
    HungarianAssigner,
    IoUCost,
)
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..functional.boxes import cxcywh_to_xyxy, iou_and_giou, xyxy_to_cxcywh
from ..functional.stages import pick_stages
from ..functional.transfer import pad_rows, to_device, to_host
from .outputs import DecoderOutputs

ROW_BY_ROW = (FocalLossCost, ClassificationCost, BBoxL1Cost, IoUCost)


def is_row_by_row(assigner: Any) -> bool:
    """Tell whether this is MMDetection's assigner, with costs that treat each query alone."""
    return type(assigner) is HungarianAssigner and all(
        type(cost) in ROW_BY_ROW
        and not getattr(cost, 'binary_input', False)
        and getattr(cost, 'iou_mode', 'iou') in ('iou', 'giou')
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
    objects = pad_objects(samples)
    moved = {}
    if label_map is not None:
        labels = label_map[objects.labels]
        moved['known'] = labels >= 0
        objects = objects._replace(labels=labels.clamp(min=0))
    if outputs.query_mask is not None:
        moved['kept'] = pick_stages(outputs.query_mask, stages)
    costs = _costs(assigner, logits, boxes, objects)
    cost_array, *arrays = to_host([costs, *moved.values()])()
    found = dict(zip(moved, arrays))
    known = found.get('known', np.ones(objects.labels.shape, dtype=bool))
    kept = found.get('kept', np.ones(logits.shape[:3], dtype=bool))
    assignment = np.where(kept, -1, -2)
    for image, count in enumerate(objects.counts):
        columns = known[image, :count].nonzero()[0]
        for stage in range(len(stages)):
            queries = kept[stage, image].nonzero()[0]
            cost = cost_array[stage, image][np.ix_(queries, columns)]
            rows, target_boxes = linear_sum_assignment(cost)
            assignment[stage, image, queries[rows]] = columns[target_boxes]
    return to_device(assignment, logits.device)


class PaddedObjects(NamedTuple):
    """The ground truth of B images with M objects at most, padded with any rows.

    Attributes:
        labels: (B, M) int64.
        boxes_xyxy: (B, M, 4) in pixels.
        sizes: (B, 4), (w, h, w, h) of each image in pixels.
        counts: objects of each image.
    """

    labels: Tensor
    boxes_xyxy: Tensor
    sizes: Tensor
    counts: List[int]


def pad_objects(samples: List[Any]) -> PaddedObjects:
    """The objects of all images in one tensor, made without a loop over images on the device."""
    objects = [sample.gt_instances for sample in samples]
    boxes = pad_rows([found.bboxes for found in objects])
    return PaddedObjects(
        pad_rows([found.labels for found in objects]),
        boxes,
        image_sizes(samples, boxes),
        [len(found.labels) for found in objects],
    )


def image_sizes(samples: List[Any], like: Tensor) -> Tensor:
    """(B, 4), (w, h, w, h) of each image in pixels, with dtype and device of `like`."""
    shapes = [sample.metainfo['img_shape'][:2] for sample in samples]
    sizes = np.array([(w, h, w, h) for h, w in shapes], dtype=np.float64)
    return to_device(sizes, like.device).to(like.dtype)


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
    sizes = image_sizes(samples, outputs.boxes)
    for image, sample in enumerate(samples):
        objects, known = sample.gt_instances, None
        if label_map is not None:
            labels = label_map[objects.labels]
            known = (labels >= 0).nonzero().flatten()
            objects = InstanceData(bboxes=objects.bboxes[known], labels=labels[known])
        for number, stage in enumerate(stages):
            rows = slice(None) if outputs.query_mask is None else outputs.query_mask[stage, image]
            corners = cxcywh_to_xyxy(outputs.boxes[stage, image]) * sizes[image]
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


def _costs(
    assigner: HungarianAssigner, logits: Tensor, boxes: Tensor, objects: PaddedObjects
) -> Tensor:
    """Sum the assigner's costs, (P, B, N, M).

    Class costs are MMDetection's, for every class; box costs are written out, since MMDetection's
    make small tensors that force a host-device synchronisation.
    """
    sizes = objects.sizes.unsqueeze(1)  # (B, 1, 4)
    corners = cxcywh_to_xyxy(boxes)
    terms = []
    for cost in assigner.match_costs:
        if type(cost) is BBoxL1Cost:
            predicted, target_boxes = corners, objects.boxes_xyxy / sizes
            if cost.box_format == 'xywh':
                predicted, target_boxes = boxes, xyxy_to_cxcywh(target_boxes)
            term = torch.cdist(predicted, target_boxes, p=1) * cost.weight
        elif type(cost) is IoUCost:
            iou, giou = iou_and_giou(
                (corners * sizes).unsqueeze(-2), objects.boxes_xyxy.unsqueeze(1)
            )
            term = -cost.weight * (giou if cost.iou_mode == 'giou' else iou)
        else:
            classes = torch.arange(logits.shape[-1], device=logits.device)
            table = cost(
                InstanceData(scores=logits.flatten(0, 2)), InstanceData(labels=classes)
            ).view_as(logits)
            index = objects.labels.expand(*logits.shape[:1], -1, -1).unsqueeze(2)
            term = table.gather(-1, index.expand(-1, -1, logits.shape[2], -1))
        terms.append(term)
    return torch.stack(terms).sum(0)

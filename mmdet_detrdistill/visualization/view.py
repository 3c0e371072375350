"""The numbers behind the drawings of one image, computed as the losses compute them."""

from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from ..detectors import DecoderOutputs
from ..detectors.pair import DistillPair
from ..functional.boxes import cxcywh_to_xyxy, iou_and_giou
from ..functional.classes import foreground_probs
from ..functional.logits_kd import pair_stages
from ..functional.matching import match, matching_cost
from ..losses.feature_kd import FeatureKDLoss
from ..losses.logits_kd import LogitsKDLoss

SURE = 0.3  # score from which on a prediction is drawn


class Predictions(NamedTuple):
    """Boxes (N, 4) x1y1x2y2 in [0, 1] of the image, labels (N,) int64 and scores (N,) in [0, 1]."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def pick(self, kept: Any) -> 'Predictions':
        """Select those of an index list or a mask."""
        return Predictions(self.boxes[kept], self.labels[kept], self.scores[kept])

    def sure(self) -> 'Predictions':
        """Select those with a score of at least `SURE`."""
        return self.pick(self.scores >= SURE)

    def centres(self) -> Tensor:
        """Return the centres (N, 2), x and y in [0, 1]."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2


@dataclass
class PairView:
    """One image with the outputs of teacher and student.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        masks: by form, 'paper' and 'released', per teacher stage and level (h, w), without padding.
        strides: of the levels, in pixels.
        student: its predictions in the last stage, the best class of each query; so `teacher`.
        objects: ground truth with scores 1; empty when there is none.
        matches: teacher query, student query and cost of each drawn pair, last stages.
        references: (N_t, 2) x and y in [0, 1] of the injected queries' reference points; None where
            the student's queries have none (DETR) or nothing is injected.
        assigned: (N_t,) bool, the teacher queries that its own assignment gave an object; without
            ground truth those whose prediction is sure.
    """

    image: np.ndarray
    masks: Dict[str, List[List[Tensor]]]
    strides: List[int]
    student: Predictions
    teacher: Predictions
    objects: Predictions
    matches: List[Tuple[int, int, float]]
    references: Optional[Tensor]
    assigned: Tensor


@torch.no_grad()
def view_pair(model: Any, data: Dict[str, Any]) -> PairView:
    """Run both detectors on one image, in eval mode; modes and random numbers stay.

    Args:
        model: a `DETRDistill`.
        data: `inputs`: one image (3, H, W) uint8 as a pipeline leaves it, `data_samples`: its
            sample, with `gt_instances` in pixels of that image (empty when it has none).
    """
    training = model.training
    model.eval()
    try:
        batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
        batch = model.data_preprocessor(batch, training=False)
        images, samples = batch['inputs'], batch['data_samples']
        samples[0].gt_instances = samples[0].gt_instances.to(images.device)
        student, teacher = model.student_adapter, model.teacher_adapter
        pair = DistillPair(
            student,
            teacher,
            student.forward_pass(images, samples),
            model.teacher_pass(images, samples),
            samples,
            model.class_map,
            followed_rules(model),
        )
        return _view(model, pair, data['inputs'])
    finally:
        model.train(training)


def _view(model: Any, pair: DistillPair, image: Tensor) -> PairView:
    height, width = pair.samples[0].metainfo['img_shape'][:2]
    labels, boxes, _ = pair.ground_truth
    objects = Predictions(cxcywh_to_xyxy(boxes[0]), labels[0], torch.ones(len(labels[0])))
    outputs = pair.teacher_forward.outputs
    teacher = read_predictions(outputs, pair.teacher.activation, pair.teacher_classes)
    assigned = (teacher.scores >= SURE).to(outputs.logits.device)
    if len(labels[0]):
        assigned = pair.teacher_assignment[-1, 0] >= 0
    masks = pair_masks(model, pair)
    strides = [pair.teacher.strides[level.teacher] for level in pair.levels]
    for stages in masks.values():
        for stage in stages:
            stage[:] = [
                mask[0, : -(-height // stride), : -(-width // stride)].cpu()
                for mask, stride in zip(stage, strides)
            ]
    return PairView(
        # BGR, as MMDetection's pipelines leave it
        image=image[:, :height, :width].flip(0).permute(1, 2, 0).to(torch.uint8).cpu().numpy(),
        masks=masks,
        strides=strides,
        student=read_predictions(pair.student_forward.outputs, pair.student.activation),
        teacher=teacher,
        objects=Predictions(*(value.cpu() for value in objects)),
        matches=pair_matches(model, pair, assigned),
        references=injected_references(model, pair),
        assigned=assigned.cpu(),
    )


def read_predictions(
    outputs: DecoderOutputs, activation: str, classes: Optional[Tensor] = None
) -> Predictions:
    """Read those of the first image; with `classes` (K',) only these, numbered anew."""
    probs = foreground_probs(outputs.logits[-1, 0], activation)
    scores, labels = (probs if classes is None else probs[:, classes]).max(-1)
    if outputs.query_mask is not None:
        scores = scores * outputs.query_mask[-1, 0]
    boxes = cxcywh_to_xyxy(outputs.boxes[-1, 0]).clamp(0, 1)
    return Predictions(boxes.cpu(), labels.cpu(), scores.cpu())


def pair_masks(model: Any, pair: DistillPair) -> Dict[str, List[List[Tensor]]]:
    """Make the mask (B, h, w) of each form, teacher stage and shared level.

    The feature loss of the config gives its options to the form that it follows.
    """
    configured = model.distiller.pair_losses.get('loss_feature_kd')
    masks = {}
    for preset in ('paper', 'released'):
        loss = FeatureKDLoss(preset=preset)
        if configured is not None and configured.options.mask == loss.options.mask:
            loss = configured
        count = pair.teacher_forward.outputs.logits.shape[0]
        masks[preset] = [loss.masks(pair, slice(stage, stage + 1)) for stage in range(count)]
    return masks


def pair_matches(model: Any, pair: DistillPair, chosen: Tensor) -> List[Tuple[int, int, float]]:
    """Match the chosen (N_t,) teacher queries in the last stages: the pairs with their cost.

    The cost is that of the config's logits loss (weights of its terms), see `matching_cost`.
    """
    options = (model.distiller.pair_losses.get('loss_logits_kd') or LogitsKDLoss()).options
    student, teacher = pair.predictions(pair.student_forward.outputs)
    stages = pair_stages(student, teacher, options)
    last = [values[-1:] for values in stages[:4]]  # the last pair is that of the last stages
    cost = matching_cost(
        *last,
        activation=student.activation,
        cls_weight=options.cls_weight,
        bbox_weight=options.bbox_weight,
        giou_weight=options.giou_weight,
    )
    rows = None if stages.student_mask is None else stages.student_mask[-1:]
    columns = chosen[None, None] & stages.teacher_mask[-1:]
    matched = match(cost, rows, columns)[0, 0].tolist()
    pairs = [(teacher, student) for teacher, student in enumerate(matched) if student >= 0]
    return [(teacher, student, float(cost[0, 0, student, teacher])) for teacher, student in pairs]


def followed_rules(model: Any) -> Dict[str, Any]:
    """Return the injection rules on the teacher's own queries or boxes."""
    return {n: rule for n, rule in model.distiller.injections.items() if not rule.both_sides}


def injected_references(model: Any, pair: DistillPair) -> Optional[Tensor]:
    """Return reference points (N_t, 2) of the teacher's queries in the student's first stage."""
    names = [*followed_rules(model)]
    references = pair.injected_pass(names[0]).decoder_outputs.get('references') if names else None
    if references is None:
        return None
    if isinstance(references, (list, tuple)) or references.dim() == 4:
        references = references[0]
    injected: Tensor = references[0, : pair.teacher_forward.outputs.logits.shape[2], :2]
    return injected.cpu()


def found_objects(predictions: Predictions, objects: Predictions) -> Tensor:
    """Return (M,) bool: objects which a confident prediction of their class meets (IoU >= 0.5)."""
    sure = predictions.sure()
    iou, _ = iou_and_giou(sure.boxes[:, None], objects.boxes[None])
    same = sure.labels[:, None] == objects.labels[None]
    return ((iou >= 0.5) & same).any(0)

"""The procedure of DETRDistill's released code, for comparison only; nothing of it is shipped.

The same losses as `preset='released'`, made as the released code makes them: a second encoder pass
for the teacher's queries, one SciPy call and one transfer per stage and image, masks (B, 100, H, W)
of the best scores per stage and level, and a new matching of the injected pass by MMDetection's
assigner. Left out are its contrastive term and an assignment of the teacher that nothing reads.
"""

from typing import Any, Dict, List

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors import EncoderState, ForwardPass, ground_truth
from mmdet_detrdistill.detectors.gt_assignment import assign_one_by_one
from mmdet_detrdistill.detectors.pair import DistillPair
from mmdet_detrdistill.functional.assign_kd import assign_kd
from mmdet_detrdistill.functional.boxes import clamp_to_image, cxcywh_to_xyxy, iou_and_giou
from mmdet_detrdistill.functional.classes import class_divergence, foreground_probs, soft_targets
from mmdet_detrdistill.functional.matching import matching_cost

TOP_SCORES = 100  # of an image: max_per_img in the released configs


def released_losses(model: DETRDistill, images: Tensor, samples: List[Any]) -> Dict[str, Tensor]:
    """The student's losses and `logits_kd`, `feature_kd` and `assign_kd` beside them."""
    student, teacher = model.student_adapter, model.teacher_adapter
    with torch.no_grad():
        teacher_forward = teacher.forward_pass(images, samples)
    forward = student.forward_pass(images, samples)
    losses = student.task_loss(forward, samples)
    losses['loss_logits_kd'] = _logits(model, forward, teacher_forward)
    losses['loss_feature_kd'] = _features(model, forward, teacher_forward, samples)
    again = _encode_again(model, forward, samples)
    passes = ForwardPass(again, forward.outputs), teacher_forward
    rules = model.distiller.injections
    pair = DistillPair(student, teacher, *passes, samples, injections=rules)
    losses['loss_assign_kd'] = _injected(model, pair)
    return losses


def _logits(model: DETRDistill, forward: ForwardPass, teacher_forward: ForwardPass) -> Tensor:
    student, teacher = forward.outputs, teacher_forward.outputs
    kinds = model.teacher_adapter.activation, model.student_adapter.activation
    total = student.logits.new_zeros(())
    for stage in range(student.logits.shape[0]):
        targets = soft_targets(teacher.logits[stage], *kinds)
        target_boxes = clamp_to_image(teacher.boxes[stage])
        sums = []
        for image in range(student.logits.shape[1]):
            pair = (
                student.logits[stage, image],
                student.boxes[stage, image],
                targets[image],
                target_boxes[image],
            )
            cost = matching_cost(*pair, activation=kinds[1]).cpu().numpy()
            rows, columns = (torch.from_numpy(ids) for ids in linear_sum_assignment(cost))
            boxes, targeted = pair[1][rows], pair[3][columns]
            _, giou = iou_and_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targeted))
            divergence = class_divergence(pair[0][rows], pair[2][columns], kinds[1])
            sums.append(
                divergence.sum() + 5 * (boxes - targeted).abs().sum() + 2 * (1 - giou).sum()
            )
        total = total + sum(sums) / (len(rows) * len(sums))
    return total


def _features(
    model: DETRDistill, forward: ForwardPass, teacher_forward: ForwardPass, samples: List[Any]
) -> Tensor:
    outputs = teacher_forward.outputs
    probs = foreground_probs(outputs.logits, model.teacher_adapter.activation)
    flat = probs.flatten(2)
    scores, best = flat.topk(min(TOP_SCORES, flat.shape[-1]), dim=-1)
    rows = (best // probs.shape[-1]).unsqueeze(-1)  # of (query, class) the query, again and again

    def picked(values: Tensor) -> Tensor:
        return values.gather(2, rows.expand(-1, -1, -1, values.shape[-1]))

    corners = cxcywh_to_xyxy(picked(outputs.boxes))
    for image, objects in enumerate(ground_truth(samples)[1]):
        if objects.shape[0]:
            iou, _ = iou_and_giou(corners[:, image].unsqueeze(-2), cxcywh_to_xyxy(objects))
            scores[:, image] *= iou.amax(-1)
    phi = model.distiller.pair_losses['loss_feature_kd'].phi
    return masked_error(
        [phi(level) for level in forward.state.features],
        teacher_forward.state.features,
        picked(outputs.hidden_states),
        scores,
    )


def masked_error(
    student: List[Tensor], teacher: List[Tensor], queries: Tensor, quality: Tensor
) -> Tensor:
    """Released form of the feature loss with masks (B, N, H, W) for each stage and level."""
    total = student[0].new_zeros(())
    for stage_queries, stage_quality in zip(queries, quality):
        for student_map, teacher_map in zip(student, teacher):
            masks = torch.einsum(
                'bnc,bchw->bnhw',
                F.normalize(stage_queries, dim=-1),
                F.normalize(teacher_map, dim=1),
            )
            mask = (stage_quality[..., None, None] * masks).sum(1, keepdim=True).clamp(min=0.01)
            mask = mask / mask.amax((2, 3), keepdim=True)
            total = total + F.mse_loss(mask * student_map, mask * teacher_map)
    return total


def _encode_again(model: DETRDistill, forward: ForwardPass, samples: List[Any]) -> EncoderState:
    """The student's transformer from the neck on, for the second time."""
    detector = model.student
    features = forward.state.features
    encoder_inputs, decoder_inputs = detector.pre_transformer(features, samples)
    encoded = detector.forward_encoder(**encoder_inputs)
    extra = dict(batch_data_samples=samples) if 'dn_meta' in forward.state.head_inputs else {}
    queries, head_inputs = detector.pre_decoder(**encoded, **extra)
    return EncoderState(
        features=features,
        memory=encoded['memory'],
        padding_mask=encoder_inputs['feat_mask'],
        decoder_inputs={**decoder_inputs, **queries},
        head_inputs=head_inputs,
    )


def _injected(model: DETRDistill, pair: DistillPair) -> Tensor:
    student = model.student_adapter
    loss = model.distiller.pair_losses['loss_assign_kd']
    outputs = loss.injected_pass(pair)
    everything = range(outputs.logits.shape[0])
    assignment = assign_one_by_one(student.head.assigner, outputs, pair.samples, None, everything)
    labels, boxes, sizes = pair.ground_truth
    terms = assign_kd(
        outputs.logits,
        outputs.boxes,
        assignment,
        labels,
        boxes,
        num_classes=student.num_classes,
        criterion=student.criterion(),
        image_sizes=sizes,
        query_mask=outputs.query_mask,
    )
    return sum(terms.values())

"""What a `DETRDistill` must log on a batch, by the slow reference.

Of the package only the two passes over the detectors and their assignment are taken; projections,
phi, level pairs, padding and class maps are written out here.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdet_detrdistill import DETRDistill
from tests.reference import (
    assign_kd_reference,
    feature_kd_reference,
    logits_kd_reference,
    query_quality_reference,
)
from tests.reference_terms import (
    clamped_to_image,
    corners,
    cross_entropy,
    entropy,
    iou_and_giou,
    l1,
    soft_targets,
    stage_groups,
)

#: per variant, the entries of the teacher's decoder inputs that a student of the family receives
INJECTED = {
    'detr': ('query_pos',),
    'dab': ('query_pos',),
    'deformable': ('query', 'query_pos', 'reference_points'),
    'ddq': ('query', 'reference_points'),
}
RELEASED_LOGITS = dict(matching='joint', negative_cls=True)
RELEASED_FEATURE = dict(similarity='cosine', mask='summed')


def logged(model: DETRDistill, images: Tensor, samples: List[Any]) -> Dict[str, Tensor]:
    """The distillation terms of one training pass; the seed is that of `expected_terms`."""
    torch.manual_seed(0)
    losses = model.loss(images, samples)
    return {name: value for name, value in losses.items() if '_kd' in name}


@torch.no_grad()
def expected_terms(
    model: DETRDistill,
    variant: str,
    images: Tensor,
    samples: List[Any],
    *,
    levels: Sequence[Tuple[int, int]],
    preset: str = 'paper',
    pairing: str = 'group',
) -> Dict[str, Tensor]:
    """Terms by name of all four losses, for a student and a teacher of one variant.

    Args:
        levels: pairs (student level, teacher level) of equal stride.
        preset: of all losses; `pairing`: of all but the feature loss.
    """
    torch.manual_seed(0)
    teacher = model.teacher_adapter.walk(images, samples)
    student = model.student_adapter.walk(images, samples)
    assignment = model.teacher_adapter.assign(teacher.outputs, samples)
    shapes = [sample.metainfo['img_shape'] for sample in samples]
    labels = [sample.gt_instances.labels for sample in samples]
    gt_boxes = [_relative(s.gt_instances.bboxes, shape) for s, shape in zip(samples, shapes)]
    activations = dict(
        student_activation=_activation(model.student), teacher_activation=_activation(model.teacher)
    )
    paper = preset == 'paper'
    terms = {}

    def add(stem: str, found: Dict[str, Tensor]) -> None:
        for name, value in found.items():
            key = f'{stem}.{name}' if name == 'entropy' else f'loss_{stem}.{name}'
            terms[key] = torch.as_tensor(value)

    add(
        'logits_kd',
        logits_kd_reference(
            student.outputs.logits,
            student.outputs.boxes,
            teacher.outputs.logits,
            teacher.outputs.boxes,
            assignment >= 0,
            student_mask=student.outputs.query_mask,
            teacher_mask=teacher.outputs.query_mask,
            pairing=pairing,
            **activations,
            **({} if paper else RELEASED_LOGITS),
        ),
    )

    picked = slice(-1, None) if paper else slice(None)
    quality = query_quality_reference(
        _foreground(teacher.outputs.logits[picked], activations['teacher_activation']),
        teacher.outputs.boxes[picked],
        gt_boxes,
        assignment[picked],
        quality='matched_iou' if paper else 'max_iou',
    )
    if teacher.outputs.query_mask is not None:
        quality = quality * teacher.outputs.query_mask[picked]
    maps = [
        [_maps(walk.state.memory, walk.state.features) if paper else walk.state.features]
        for walk in (student, teacher)
    ]
    teacher_maps = [maps[1][0][other] for _, other in levels]
    terms['loss_feature_kd'] = feature_kd_reference(
        [_phi(model, maps[0][0][own]) for own, _ in levels],
        teacher_maps,
        teacher.outputs.hidden_states[picked],
        quality,
        _valid_masks(images, shapes, teacher_maps) if paper else None,
        **({} if paper else RELEASED_FEATURE),
    )

    logits, boxes, mask = _replayed(model, variant, student, teacher, references=preset)
    if not paper:
        logits_aligned, boxes_aligned, _ = _replayed(model, variant, student, teacher)
        rematched = type(student.outputs)(None, logits, boxes, mask, {}, ())
        followed = model.student_adapter.assign(rematched, samples)
    else:
        logits_aligned, boxes_aligned, followed = logits, boxes, assignment
    head = model.student.bbox_head
    add(
        'assign_kd',
        assign_kd_reference(
            logits,
            boxes,
            followed,
            labels,
            gt_boxes,
            activation=activations['student_activation'],
            background_weight=float(head.bg_cls_weight),
            cls_weight=head.loss_cls.loss_weight,
            image_sizes=torch.tensor(shapes),
            query_mask=mask,
            pairing=pairing,
        ),
    )
    add(
        'aligned_kd',
        aligned_kd_reference(
            logits_aligned,
            boxes_aligned,
            teacher.outputs.logits,
            teacher.outputs.boxes,
            assignment >= 0,
            student_mask=mask,
            teacher_mask=teacher.outputs.query_mask,
            pairing=pairing,
            **activations,
        ),
    )
    return terms


def aligned_kd_reference(
    student_logits, student_boxes, teacher_logits, teacher_boxes, positive_mask, *,
    student_activation, teacher_activation, student_mask=None, teacher_mask=None, pairing='group',
):  # fmt: skip
    """Student query i against teacher query i, one at a time; classes of negatives too."""
    groups = stage_groups(student_logits.shape[0], teacher_logits.shape[0], pairing)
    totals: Dict[str, Any] = {}
    for s, group in enumerate(groups):
        for t in group:
            for prefix, positive in (('', True), ('neg_', False)):
                sums = dict.fromkeys(('cls', 'bbox', 'giou', 'entropy'), 0.0)
                count = 0
                for b in range(student_logits.shape[1]):
                    for i in range(student_logits.shape[2]):
                        out = student_mask is not None and not student_mask[s, b, i]
                        out = out or (teacher_mask is not None and not teacher_mask[t, b, i])
                        if out or bool(positive_mask[t, b, i]) != positive:
                            continue
                        count += 1
                        target = soft_targets(
                            teacher_logits[t, b, i].tolist(), teacher_activation, student_activation
                        )
                        goal = clamped_to_image(teacher_boxes[t, b, i].tolist())
                        box = list(student_boxes[s, b, i])
                        floor = entropy(target, student_activation)
                        ce = cross_entropy(
                            list(student_logits[s, b, i]), target, student_activation
                        )
                        giou = iou_and_giou(corners(box), corners(goal))[1]
                        sums['cls'] += ce - floor
                        sums['entropy'] += floor
                        sums['bbox'] += 5 * l1(box, goal)
                        sums['giou'] += 2 * (1 - giou)
                for name, value in sums.items():
                    key = name if name == 'entropy' else prefix + name
                    totals[key] = totals.get(key, 0.0) + value / max(count, 1) / len(group)
    return totals


def _activation(detector: torch.nn.Module) -> str:
    return 'sigmoid' if detector.bbox_head.loss_cls.use_sigmoid else 'softmax'


def _foreground(logits: Tensor, activation: str) -> Tensor:
    return logits.sigmoid() if activation == 'sigmoid' else logits.softmax(-1)[..., :-1]


def _relative(boxes_abs_xyxy: Tensor, shape: Tuple[int, int]) -> Tensor:
    x1, y1, x2, y2 = boxes_abs_xyxy.unbind(-1)
    height, width = shape
    centre_size = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
    return torch.stack((*centre_size, (x2 - x1) / width, (y2 - y1) / height), -1)


def _maps(memory: Tensor, features: Sequence[Tensor]) -> List[Tensor]:
    """Memory (B, P, D), levels one after the other, cut into maps as large as the features."""
    maps, start = [], 0
    for feature in features:
        height, width = feature.shape[-2:]
        part = memory[:, start : start + height * width]
        maps.append(part.transpose(1, 2).reshape(memory.shape[0], -1, height, width))
        start += height * width
    assert start == memory.shape[1]
    return maps


def _valid_masks(
    images: Tensor, shapes: Sequence[Tuple[int, int]], maps: Sequence[Tensor]
) -> List[Tensor]:
    """Per level (B, H, W): the pixel at its corner lies in the image, as MMDetection reads it."""
    inside = images.new_zeros(len(shapes), 1, *images.shape[-2:])
    for image, (height, width) in enumerate(shapes):
        inside[image, :, :height, :width] = 1
    return [F.interpolate(inside, size=m.shape[-2:])[:, 0].bool() for m in maps]


def _phi(model: DETRDistill, feature: Tensor) -> Tensor:
    phi = model.distiller.pair_losses['loss_feature_kd'].phi
    if isinstance(phi, torch.nn.Identity):
        return feature
    product = torch.einsum('oc,bchw->bohw', phi.weight[:, :, 0, 0], feature)
    return product + phi.bias[:, None, None]


def _replayed(
    model: DETRDistill, variant: str, student: Any, teacher: Any, references: str = 'paper'
) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
    """Logits, boxes and mask of the student on the teacher's queries."""
    loss = 'loss_assign_kd' if references == 'released' else 'loss_aligned_kd'
    projections = model.distiller.pair_losses[loss].injection.projections
    own, other = student.state.decoder_inputs, teacher.state.decoder_inputs
    queries = {}
    for name in INJECTED[variant]:
        queries[name] = other[name]
        if name in projections:
            layer = projections[name]
            queries[name] = other[name] @ layer.weight.T + layer.bias
    if 'query' not in queries:  # content starts at zero in these families
        images, count = other['query'].shape[:2]
        queries['query'] = own['query'].new_zeros(images, count, own['query'].shape[-1])
    if variant == 'deformable' and references == 'released':
        layer = model.student.reference_points_fc
        queries['reference_points'] = (queries['query_pos'] @ layer.weight.T + layer.bias).sigmoid()
    if variant == 'ddq':  # keeps state between its stages
        outputs = model.student_adapter.decode(student.state, queries)
        return outputs.logits, outputs.boxes, outputs.query_mask
    decoded = model.student.forward_decoder(**{**own, **queries})
    logits, boxes = model.student.bbox_head(**decoded)
    return logits, boxes, None

"""The three losses written a second time: slowly, from the formulas, to check the package against.

Nothing of `mmdet_detrdistill` is imported here. Every image, stage, query and class is a Python
loop, every mask is a image of its own, every assignment problem is solved by itself. Boxes are
(cx, cy, w, h) in [0, 1]. Student first, teacher second.
"""

from collections import defaultdict
from itertools import product

import torch
from scipy.optimize import linear_sum_assignment

from tests.reference_terms import (
    clamped_to_image,
    corners,
    cross_entropy,
    entropy,
    focal,
    iou_and_giou,
    l1,
    log_softmax,
    soft_targets,
    stage_groups,
)


def _identity(count):
    return count


# ------------------------------------------------------------------------------ logits_kd


def pair_cost(logits, box, target, target_box, activation, weights):
    cls_weight, bbox_weight, giou_weight = weights
    giou = iou_and_giou(corners(box), corners(target_box))[1]
    return (
        cls_weight * cross_entropy(logits, target, activation)
        + bbox_weight * l1(box, target_box)
        + giou_weight * (1 - giou)
    )


def assign(cost, rows, columns):
    """Pairs (row, column) of the cheapest assignment between some rows and some columns."""
    if not rows or not columns:
        return []
    picked_rows, picked_columns = linear_sum_assignment(
        [[cost[i][j] for j in columns] for i in rows]
    )
    return [(rows[i], columns[j]) for i, j in zip(picked_rows, picked_columns)]


def _logits_kd_stage(
    logits, boxes, targets, target_boxes, positive, keep_student, keep_teacher,
    matching, negative_cls, activation, weights, reduce,
):  # fmt: skip
    """Terms of one student stage and one teacher stage; every argument is of these stages."""
    positive_pairs, negative_pairs = [], []
    for b in range(logits.shape[0]):
        cost = [
            [
                pair_cost(row, box, target, target_box, activation, weights)
                for target, target_box in zip(targets[b], target_boxes[b])
            ]
            for row, box in zip(logits[b].tolist(), boxes[b].tolist())
        ]
        rows = [i for i in range(logits.shape[1]) if keep_student[b][i]]
        columns = [j for j in range(len(targets[b])) if keep_teacher[b][j]]
        of_positives = [j for j in columns if positive[b][j]]
        of_negatives = [j for j in columns if not positive[b][j]]
        if matching == 'separate':
            pairs = assign(cost, rows, of_positives) + assign(cost, rows, of_negatives)
        else:
            pairs = assign(cost, rows, columns)
        for i, j in pairs:
            (positive_pairs if positive[b][j] else negative_pairs).append((b, i, j))

    cls_weight, bbox_weight, giou_weight = weights

    def mean(pairs, weight, value):
        total = logits.sum() * 0
        for b, i, j in pairs:
            total = total + weight * value(b, i, j)
        return total / max(float(reduce(torch.tensor(float(len(pairs))))), 1.0)

    def cls(b, i, j):
        divergence = cross_entropy(list(logits[b, i]), targets[b][j], activation)
        return divergence - entropy(targets[b][j], activation)

    def floor(b, i, j):
        return entropy(targets[b][j], activation)

    def bbox(b, i, j):
        return l1(list(boxes[b, i]), target_boxes[b][j])

    def giou(b, i, j):
        pair = corners(list(boxes[b, i])), corners(target_boxes[b][j])
        return 1 - iou_and_giou(*pair)[1]

    if matching == 'joint':
        every_pair = positive_pairs + negative_pairs
        cls_pairs = every_pair if negative_cls else positive_pairs
        return {
            'cls': mean(cls_pairs, cls_weight, cls),
            'bbox': mean(every_pair, bbox_weight, bbox),
            'giou': mean(every_pair, giou_weight, giou),
            'entropy': mean(cls_pairs, cls_weight, floor),
        }
    terms = {
        'cls': mean(positive_pairs, cls_weight, cls),
        'bbox': mean(positive_pairs, bbox_weight, bbox),
        'giou': mean(positive_pairs, giou_weight, giou),
        'neg_bbox': mean(negative_pairs, bbox_weight, bbox),
        'neg_giou': mean(negative_pairs, giou_weight, giou),
        'entropy': mean(positive_pairs, cls_weight, floor),
    }
    if negative_cls:
        terms['neg_cls'] = mean(negative_pairs, cls_weight, cls)
        terms['entropy'] = terms['entropy'] + mean(negative_pairs, cls_weight, floor)
    return terms


def logits_kd_reference(
    student_logits, student_boxes, teacher_logits, teacher_boxes, teacher_positive_mask, *,
    matching='separate', negative_cls=False, pairing='group', group_reduction='mean',
    student_activation='sigmoid', teacher_activation='sigmoid', cls_weight=1.0, bbox_weight=5.0,
    giou_weight=2.0, student_mask=None, teacher_mask=None, reduce=_identity, negatives='all',
    hard_giou=0.0, gt_boxes=None,
):  # fmt: skip
    """DETRDistill, Eq. 3-4: per stage and image, positives and negatives assigned apart.

    Negatives that `negatives` leaves out are as if the teacher had not predicted them.
    """
    if student_mask is None:
        student_mask = torch.ones(student_logits.shape[:3], dtype=torch.bool)
    if teacher_mask is None:
        teacher_mask = torch.ones(teacher_logits.shape[:3], dtype=torch.bool)
    if negatives != 'all':
        teacher_mask = teacher_mask.clone()
        for t, b, i in product(*map(range, teacher_mask.shape)):
            box = corners(clamped_to_image(teacher_boxes[t, b, i].tolist()))
            near = negatives == 'hard' and any(
                iou_and_giou(box, corners(truth))[1] > hard_giou for truth in gt_boxes[b].tolist()
            )
            teacher_mask[t, b, i] &= teacher_positive_mask[t, b, i] or near
    groups = stage_groups(student_logits.shape[0], teacher_logits.shape[0], pairing)
    totals = defaultdict(float)
    for s, group in enumerate(groups):
        for t in group:
            terms = _logits_kd_stage(
                student_logits[s],
                student_boxes[s],
                [
                    [soft_targets(row, teacher_activation, student_activation) for row in image]
                    for image in teacher_logits[t].tolist()
                ],
                [[clamped_to_image(box) for box in image] for image in teacher_boxes[t].tolist()],
                teacher_positive_mask[t].tolist(),
                student_mask[s].tolist(),
                teacher_mask[t].tolist(),
                matching,
                negative_cls,
                student_activation,
                (cls_weight, bbox_weight, giou_weight),
                reduce,
            )
            for name, value in terms.items():
                totals[name] += value / len(group) if group_reduction == 'mean' else value
    if negatives == 'none':
        return {name: value for name, value in totals.items() if not name.startswith('neg_')}
    return dict(totals)


# ----------------------------------------------------------------------------- feature_kd


def query_quality_reference(
    teacher_probs, teacher_boxes, gt_boxes, assignment, *,
    quality='matched_iou', gamma=0.5, topk=100,
):  # fmt: skip
    """DETRDistill, Eq. 8 ('matched_iou') and the form of the released code ('max_iou')."""
    stages, images, queries, classes = teacher_probs.shape
    result = torch.zeros(stages, images, queries, dtype=torch.float64)
    for s in range(stages):
        for b in range(images):
            probs, boxes = teacher_probs[s, b].tolist(), teacher_boxes[s, b].tolist()
            truth = [corners(box) for box in gt_boxes[b].tolist()]
            scores = sorted(
                ((probs[i][k], i, k) for i in range(queries) for k in range(classes)), reverse=True
            )
            selected = {(i, k) for _, i, k in scores[:topk]}
            for i in range(queries):
                ious = [iou_and_giou(corners(boxes[i]), box)[0] for box in truth]
                if quality == 'max_iou':
                    score = sum(probs[i][k] for k in range(classes) if (i, k) in selected)
                    value = score * max(ious) if truth else score
                elif not truth:
                    value = max(probs[i])
                else:
                    index = int(assignment[s, b, i])
                    value = 0.0
                    if index >= 0:
                        value = max(probs[i]) ** gamma * ious[index] ** (1 - gamma)
                result[s, b, i] = value
    return result


def feature_kd_reference(
    student_feats, teacher_feats, teacher_queries, quality, valid_masks=None, *,
    similarity='dot', mask='per_query',
):  # fmt: skip
    """DETRDistill, Eq. 7 and 9 ('per_query') and the form of the released code ('summed')."""
    stages, images, queries, _ = teacher_queries.shape
    total = student_feats[0].sum() * 0
    for s in range(stages):
        for level, (student, teacher) in enumerate(zip(student_feats, teacher_feats)):
            for b in range(images):
                f_s, f_t = student[b], teacher[b].detach()
                dim, height, width = f_t.shape
                keep = torch.ones(height, width, dtype=torch.bool)
                if valid_masks is not None:
                    keep = valid_masks[level][b]
                num_valid = int(keep.sum())
                if num_valid == 0:
                    continue
                masks = []
                for i in range(queries):
                    query = teacher_queries[s, b, i].detach()
                    psi = (f_t * query[:, None, None]).sum(0)
                    if similarity == 'cosine':
                        psi = psi / (f_t.square().sum(0).sqrt() * query.square().sum().sqrt())
                    masks.append(psi)
                if mask == 'per_query':
                    for i in range(queries):
                        error = (masks[i] * (f_t - f_s)).square().sum(0)[keep].sum()
                        norm = queries * dim * num_valid
                        total = total + quality[s, b, i] * error / norm / images
                else:
                    summed = sum(quality[s, b, i] * masks[i] for i in range(queries))
                    summed = summed.clamp(min=0.01)
                    summed = summed / summed[keep].max()
                    error = (summed * f_t - summed * f_s).square().sum(0)[keep].sum()
                    total = total + error / (dim * num_valid) / images
    return total


# ------------------------------------------------------------------------------ assign_kd


def assign_kd_reference(
    student_logits, student_boxes, assignment, gt_labels, gt_boxes, *, activation='sigmoid',
    background_weight=0.0, cls_weight=2.0, bbox_weight=5.0, iou_weight=2.0, image_sizes=None,
    query_mask=None, pairing='group', reduce=_identity,
):  # fmt: skip
    """DETRDistill, Eq. 10: the detector's own losses under the teacher's assignment.

    activation 'sigmoid' = focal loss; 'softmax' = cross entropy, last channel background, whose
    class weight is `background_weight`.
    """
    stages, images, queries, channels = student_logits.shape
    background = channels if activation == 'sigmoid' else channels - 1
    groups = stage_groups(stages, assignment.shape[0], pairing)
    totals = defaultdict(float)
    for s, group in enumerate(groups):
        for t in group:
            cls = bbox = iou = student_logits.sum() * 0
            num_pos = num_neg = 0
            for b in range(images):
                height, width = (1.0, 1.0) if image_sizes is None else image_sizes[b].tolist()
                for i in range(queries):
                    if query_mask is not None and not query_mask[s, b, i]:
                        continue
                    index = int(assignment[t, b, i])
                    if index == -2:  # takes no part
                        continue
                    label = background if index < 0 else int(gt_labels[b][index])
                    logits = list(student_logits[s, b, i])
                    if activation == 'sigmoid':
                        cls = cls + cls_weight * focal(logits, label)
                    else:
                        weight = background_weight if label == background else 1.0
                        cls = cls - cls_weight * weight * log_softmax(logits)[label]
                    if index < 0:
                        num_neg += 1
                        continue
                    num_pos += 1
                    box, target = list(student_boxes[s, b, i]), gt_boxes[b][index].tolist()
                    bbox = bbox + bbox_weight * l1(box, target)
                    scale = (width, height, width, height)
                    box_abs = [c * size for c, size in zip(corners(box), scale)]
                    target_abs = [c * size for c, size in zip(corners(target), scale)]
                    iou = iou + iou_weight * (1 - iou_and_giou(box_abs, target_abs)[1])
            cls_factor = reduce(torch.tensor(float(num_pos + num_neg * background_weight)))
            box_factor = reduce(torch.tensor(float(num_pos)))
            totals['cls'] += cls / max(float(cls_factor), 1.0) / len(group)
            totals['bbox'] += bbox / max(float(box_factor), 1.0) / len(group)
            totals['iou'] += iou / max(float(box_factor), 1.0) / len(group)
    return dict(totals)

"""Index-aligned distillation a second time: slowly, one query at a time; see `reference.py`."""

from tests.reference_terms import (
    clamped_to_image,
    corners,
    cross_entropy,
    entropy,
    iou_and_giou,
    l1,
    sigmoid,
    soft_targets,
    softmax,
    stage_groups,
)


def aligned_kd_reference(
    student_logits, student_boxes, teacher_logits, teacher_boxes, positive_mask, *,
    student_activation, teacher_activation, student_mask=None, teacher_mask=None, pairing='group',
    by_confidence=False,
):  # fmt: skip
    """Student query i against teacher query i, one at a time; classes of negatives too.

    Without a positive mask all queries are one set, `by_confidence` weighted with the best score.
    """
    sets = (('', True), ('neg_', False)) if positive_mask is not None else (('', None),)
    groups = stage_groups(student_logits.shape[0], teacher_logits.shape[0], pairing)
    totals = {}
    for s, group in enumerate(groups):
        for t in group:
            for prefix, positive in sets:
                sums = dict.fromkeys(('cls', 'bbox', 'giou', 'entropy'), 0.0)
                count = 0
                for b in range(student_logits.shape[1]):
                    for i in range(student_logits.shape[2]):
                        out = student_mask is not None and not student_mask[s, b, i]
                        out = out or (teacher_mask is not None and not teacher_mask[t, b, i])
                        if out:
                            continue
                        if positive is not None and bool(positive_mask[t, b, i]) != positive:
                            continue
                        raw = teacher_logits[t, b, i].tolist()
                        if teacher_activation == 'sigmoid':
                            scores = [sigmoid(x) for x in raw]
                        else:
                            scores = softmax(raw)[:-1]
                        weight = max(scores) if by_confidence else 1
                        count += weight
                        target = soft_targets(raw, teacher_activation, student_activation)
                        target_box = clamped_to_image(teacher_boxes[t, b, i].tolist())
                        box = list(student_boxes[s, b, i])
                        floor = entropy(target, student_activation)
                        ce = cross_entropy(
                            list(student_logits[s, b, i]), target, student_activation
                        )
                        giou = iou_and_giou(corners(box), corners(target_box))[1]
                        sums['cls'] += weight * (ce - floor)
                        sums['entropy'] += weight * floor
                        sums['bbox'] += weight * 5 * l1(box, target_box)
                        sums['giou'] += weight * 2 * (1 - giou)
                for name, value in sums.items():
                    key = name if name == 'entropy' else prefix + name
                    totals[key] = totals.get(key, 0.0) + value / max(count, 1) / len(group)
    return totals

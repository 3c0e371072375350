"""Index-aligned distillation a second time: slowly, one query at a time; see `reference.py`."""

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


def aligned_kd_reference(
    student_logits, student_boxes, teacher_logits, teacher_boxes, positive_mask, *,
    student_activation, teacher_activation, student_mask=None, teacher_mask=None, pairing='group',
):  # fmt: skip
    """Student query i against teacher query i, one at a time; classes of negatives too."""
    groups = stage_groups(student_logits.shape[0], teacher_logits.shape[0], pairing)
    totals = {}
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
                        target_box = clamped_to_image(teacher_boxes[t, b, i].tolist())
                        box = list(student_boxes[s, b, i])
                        floor = entropy(target, student_activation)
                        ce = cross_entropy(
                            list(student_logits[s, b, i]), target, student_activation
                        )
                        giou = iou_and_giou(corners(box), corners(target_box))[1]
                        sums['cls'] += ce - floor
                        sums['entropy'] += floor
                        sums['bbox'] += 5 * l1(box, target_box)
                        sums['giou'] += 2 * (1 - giou)
                for name, value in sums.items():
                    key = name if name == 'entropy' else prefix + name
                    totals[key] = totals.get(key, 0.0) + value / max(count, 1) / len(group)
    return totals

"""Formulas for one query, one class, one box pair: the bricks of `reference.py`.

Nothing of `mmdet_detrdistill` is imported here. The helpers take Python floats (costs) and 0-d
tensors (losses, so that autograd gives a reference for the gradients too).
"""

import math

import torch


def _exp(x):
    return x.exp() if isinstance(x, torch.Tensor) else math.exp(x)


def _log(x):
    return x.log() if isinstance(x, torch.Tensor) else math.log(x)


# ---------------------------------------------------------------------------------- boxes


def corners(box):
    """(cx, cy, w, h) -> (x1, y1, x2, y2)."""
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def clamped_to_image(box):
    """The part of a box that lies in the image, again (cx, cy, w, h)."""
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in corners(box))
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def iou_and_giou(corners_a, corners_b):
    """Of two boxes given by their corners: intersection over union, and generalised."""
    ax1, ay1, ax2, ay2 = corners_a
    bx1, by1, bx2, by2 = corners_b
    width = max(min(ax2, bx2) - max(ax1, bx1), 0.0)
    height = max(min(ay2, by2) - max(ay1, by1), 0.0)
    inter = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    iou = inter / union
    return iou, iou - (hull - union) / hull


def l1(box_a, box_b):
    return sum(abs(a - b) for a, b in zip(box_a, box_b))


# -------------------------------------------------------------------------------- classes


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def log_softmax(logits):
    top = max(x.item() if isinstance(x, torch.Tensor) else x for x in logits)
    log_sum = top + _log(sum(_exp(x - top) for x in logits))
    return [x - log_sum for x in logits]


def softmax(logits):
    return [_exp(x) for x in log_softmax(logits)]


def soft_targets(logits, teacher_activation, student_activation):
    """One teacher query's logits -> what one student query shall predict, a list of floats."""
    if teacher_activation == 'sigmoid':
        foreground = [sigmoid(x) for x in logits]
        if student_activation == 'sigmoid':
            return foreground
        mass = max(foreground)
        return [mass * p / sum(foreground) for p in foreground] + [1 - mass]
    probs = softmax(logits)
    return probs if student_activation == 'softmax' else probs[:-1]


def binary_cross_entropy(logit, target):
    """-t log s(x) - (1 - t) log(1 - s(x)) for s the sigmoid."""
    return max(logit, 0.0) - logit * target + _log(1 + _exp(-abs(logit)))


def cross_entropy(logits, targets, activation):
    if activation == 'sigmoid':
        return sum(binary_cross_entropy(x, t) for x, t in zip(logits, targets))
    return -sum(t * x for x, t in zip(log_softmax(logits), targets))


def entropy(targets, activation):
    def minus_p_log_p(p):
        return -p * math.log(p) if p > 0 else 0.0

    total = sum(minus_p_log_p(t) for t in targets)
    if activation == 'sigmoid':
        total += sum(minus_p_log_p(1 - t) for t in targets)
    return total


def focal(logits, label, alpha=0.25, gamma=2.0):
    """Sigmoid focal loss of one query; a label beyond the last class is background."""
    total = 0.0
    for k, x in enumerate(logits):
        log_p, log_not_p = -binary_cross_entropy(x, 1.0), -binary_cross_entropy(x, 0.0)
        if k == label:
            total = total - alpha * _exp(log_not_p) ** gamma * log_p
        else:
            total = total - (1 - alpha) * _exp(log_p) ** gamma * log_not_p
    return total


# --------------------------------------------------------------------------------- stages


def stage_groups(num_student, num_teacher, mode='group'):
    """Teacher stages of every student stage; one count has to divide the other here."""
    if mode == 'last':
        return [[num_teacher - 1] for _ in range(num_student)]
    groups = []
    for stage in range(num_student):
        if num_teacher >= num_student:
            size = num_teacher // num_student
            groups.append(list(range(stage * size, (stage + 1) * size)))
        else:
            groups.append([stage // (num_student // num_teacher)])
    return [group[-1:] for group in groups] if mode == 'uniform' else groups

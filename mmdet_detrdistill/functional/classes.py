"""Class scores of sigmoid heads (K channels) and softmax heads (K + 1, background last)."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ('sigmoid', 'softmax')


def check_activation(activation: str) -> None:
    """Raise ValueError unless `activation` names a kind of head."""
    if activation not in ACTIVATIONS:
        raise ValueError(f'activation must be one of {ACTIVATIONS}, got {activation!r}')


def foreground_probs(logits: Tensor, activation: str) -> Tensor:
    """Probability of each foreground class, (..., C) logits -> (..., K)."""
    check_activation(activation)
    return logits.sigmoid() if activation == 'sigmoid' else logits.softmax(-1)[..., :-1]


def soft_targets(
    teacher_logits: Tensor,
    teacher_activation: str,
    student_activation: str,
    teacher_classes: Optional[Tensor] = None,
) -> Tensor:
    """The teacher's class scores as soft labels for the student's kind of head.

    Convention: a sigmoid student gets independent probabilities, a softmax student a distribution
    with the background last. From sigmoid scores p to a distribution: the foreground holds max p,
    shared out in proportion to p; the rest is background. Classes of the teacher that are not
    picked count as background.

    Args:
        teacher_logits: (..., C_t); C_t = K for sigmoid, K + 1 for softmax.
        teacher_activation: 'sigmoid' or 'softmax'.
        student_activation: 'sigmoid' or 'softmax'.
        teacher_classes: (K',) int64, the teacher's classes to keep, in the student's order; None:
            all K.

    Returns:
        (..., K') or, for a softmax student, (..., K' + 1) that sums to 1; in [0, 1], detached.
    """
    check_activation(student_activation)
    probs = foreground_probs(teacher_logits.detach(), teacher_activation)
    if teacher_classes is not None:
        probs = probs[..., teacher_classes]
    if student_activation == 'sigmoid':
        return probs
    if teacher_activation == 'sigmoid':
        best = probs.amax(-1, keepdim=True)
        total = probs.sum(-1, keepdim=True)
        probs = best * probs / total.clamp(min=torch.finfo(probs.dtype).tiny)
    background = (1 - probs.sum(-1, keepdim=True)).clamp(min=0)
    return torch.cat((probs, background), dim=-1)


def pick_classes(student_logits: Tensor, student_classes: Tensor, activation: str) -> Tensor:
    """The student's logits (..., C) of the classes (K',) that have a target, background kept."""
    check_activation(activation)
    if activation == 'softmax':
        background = student_classes.new_full((1,), student_logits.shape[-1] - 1)
        student_classes = torch.cat((student_classes, background))
    return student_logits[..., student_classes]


def target_entropy(targets: Tensor, activation: str) -> Tensor:
    """Entropy of soft labels (..., C) -> (...), in nats: the floor of their cross entropy."""
    check_activation(activation)
    entropy: Tensor = torch.special.entr(targets)
    if activation == 'sigmoid':
        entropy = entropy + torch.special.entr(1 - targets)
    return entropy.sum(-1)


def cross_entropy(student_logits: Tensor, targets: Tensor, activation: str) -> Tensor:
    """Cross entropy with soft labels, summed over the classes: (..., C), (..., C) -> (...)."""
    check_activation(activation)
    if activation == 'softmax':
        return -(targets * student_logits.log_softmax(-1)).sum(-1)
    return torch.addcmul(F.softplus(student_logits), targets, student_logits, value=-1).sum(-1)


def class_divergence(student_logits: Tensor, targets: Tensor, activation: str) -> Tensor:
    """Compute the cross entropy under soft labels minus its floor, the labels' own entropy.

    Source: the classification term of DETRDistill, Eq. 3. With soft labels the cross entropy never
    nears 0; subtracting the constant changes no gradient.

    Args:
        student_logits: (..., C).
        targets: (..., C) soft labels from `soft_targets`.
        activation: the student's, 'sigmoid' (binary, summed over classes) or 'softmax'.

    Returns:
        (...), >= 0 up to rounding, 0 exactly where the student's scores equal the targets.
    """
    return cross_entropy(student_logits, targets, activation) - target_entropy(targets, activation)

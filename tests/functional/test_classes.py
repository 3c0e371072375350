import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from mmdet_detrdistill.functional.classes import (
    class_divergence,
    foreground_probs,
    pick_classes,
    soft_targets,
    target_entropy,
)
from tests import reference_terms

ACTIVATIONS = ['sigmoid', 'softmax']


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_value_by_hand():
    # logit 0 against p = 0.75: ln 2 whatever p; entropy = 0.75 ln (4 / 3) + 0.25 ln 4.
    floor = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert_close(target_entropy(row(0.75), 'sigmoid'), row(floor)[0])
    divergence = class_divergence(row(0.0), row(0.75), 'sigmoid')
    assert_close(divergence, row(math.log(2) - floor)[0])
    # logits (0, 0) against (0.75, 0.25): cross entropy ln 2, the same entropy.
    assert_close(target_entropy(row(0.75, 0.25), 'softmax'), row(floor)[0])
    divergence = class_divergence(row(0.0, 0.0), row(0.75, 0.25), 'softmax')
    assert_close(divergence, row(math.log(2) - floor)[0])


def test_convention_summed_over_classes():
    one = class_divergence(row(0.3), row(0.6), 'sigmoid')
    assert_close(class_divergence(row(0.3, 0.3), row(0.6, 0.6), 'sigmoid'), 2 * one)


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_zero_at_equality(draw, activation):
    logits = draw.normal(3, 5, scale=3.0)
    targets = soft_targets(logits, activation, activation)
    assert_close(class_divergence(logits, targets, activation), torch.zeros(3).double())


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_non_negative(draw, activation):
    targets = soft_targets(draw.normal(200, 5, scale=4.0), activation, activation)
    divergence = class_divergence(draw.normal(200, 5, scale=4.0), targets, activation)
    assert (divergence > 0).all()


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_equals_known_limit(draw, activation):
    # Hard targets have no entropy: plain (binary) cross entropy is left.
    logits, labels = draw.normal(6, 4), draw.integers(4, 6)
    hard = F.one_hot(labels, 4).double()
    if activation == 'sigmoid':
        expected = F.binary_cross_entropy_with_logits(logits, hard, reduction='none').sum(-1)
    else:
        expected = F.cross_entropy(logits, labels, reduction='none')
    assert_close(class_divergence(logits, hard, activation), expected)


@pytest.mark.parametrize('teacher_activation', ACTIVATIONS)
@pytest.mark.parametrize('student_activation', ACTIVATIONS)
def test_equals_reference(draw, teacher_activation, student_activation):
    teacher = draw.normal(10, 4, scale=2.0)
    targets = soft_targets(teacher, teacher_activation, student_activation)
    student = draw.normal(*targets.shape, scale=2.0)
    divergence = class_divergence(student, targets, student_activation)
    for i in range(10):
        expected = reference_terms.soft_targets(
            teacher[i].tolist(), teacher_activation, student_activation
        )
        assert_close(targets[i], row(*expected))
        floor = reference_terms.entropy(expected, student_activation)
        ce = reference_terms.cross_entropy(student[i].tolist(), expected, student_activation)
        assert_close(target_entropy(targets, student_activation)[i], row(floor)[0])
        assert_close(divergence[i], row(ce - floor)[0])


def test_convention_softmax_background_is_last():
    # probs (1/6, 2/6, 3/6): the last is background; a sigmoid student learns the first two.
    logits = row(1.0, 2.0, 3.0).log()
    assert_close(soft_targets(logits, 'softmax', 'softmax'), row(1 / 6, 2 / 6, 3 / 6))
    assert_close(soft_targets(logits, 'softmax', 'sigmoid'), row(1 / 6, 2 / 6))
    assert_close(foreground_probs(logits, 'softmax'), row(1 / 6, 2 / 6))


def test_convention_sigmoid_to_softmax():
    # p = (0.8, 0.2): foreground mass 0.8 shared 4 : 1, background 0.2 in the last channel.
    logits = torch.logit(row(0.8, 0.2))
    assert_close(soft_targets(logits, 'sigmoid', 'softmax'), row(0.64, 0.16, 0.2))
    assert_close(foreground_probs(logits, 'sigmoid'), row(0.8, 0.2))


def test_convention_picked_classes_are_in_the_students_order():
    # The student has classes (c, a) of the teacher's (a, b, c); b counts as background.
    classes = torch.tensor([2, 0])
    logits = row(0.1, 0.2, 0.3, 0.4).log()
    assert_close(soft_targets(logits, 'softmax', 'sigmoid', classes), row(0.3, 0.1))
    assert_close(soft_targets(logits, 'softmax', 'softmax', classes), row(0.3, 0.1, 0.6))
    logits = torch.logit(row(0.2, 0.9, 0.8))
    assert_close(soft_targets(logits, 'sigmoid', 'sigmoid', classes), row(0.8, 0.2))
    # Foreground mass 0.8, shared 4 : 1.
    assert_close(soft_targets(logits, 'sigmoid', 'softmax', classes), row(0.64, 0.16, 0.2))


def test_convention_picked_logits_keep_the_background():
    logits = row(1.0, 2.0, 3.0, 4.0)
    classes = torch.tensor([2, 0])
    assert_close(pick_classes(logits, classes, 'sigmoid'), row(3.0, 1.0))
    assert_close(pick_classes(logits, classes, 'softmax'), row(3.0, 1.0, 4.0))


@pytest.mark.parametrize('teacher_activation', ACTIVATIONS)
def test_softmax_targets_are_a_distribution(draw, teacher_activation):
    targets = soft_targets(draw.normal(20, 5, scale=3.0), teacher_activation, 'softmax')
    assert_close(targets.sum(-1), torch.ones(20).double())
    assert (targets >= 0).all()


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_gradcheck(draw, activation):
    targets = soft_targets(draw.normal(4, 3), activation, activation)
    student = draw.normal(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: class_divergence(x, targets, activation), (student,))


def test_teacher_gets_no_gradient(draw):
    teacher = draw.normal(4, 3).requires_grad_()
    for teacher_activation in ACTIVATIONS:
        for student_activation in ACTIVATIONS:
            targets = soft_targets(teacher, teacher_activation, student_activation)
            assert not targets.requires_grad


@pytest.mark.parametrize('teacher_activation', ACTIVATIONS)
@pytest.mark.parametrize('student_activation', ACTIVATIONS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_numeric_stability(teacher_activation, student_activation, dtype):
    extreme = torch.tensor([100.0, -100.0, 0.0], dtype=dtype)
    teacher = torch.cartesian_prod(extreme, extreme, extreme)
    targets = soft_targets(teacher, teacher_activation, student_activation)
    student = torch.cartesian_prod(*[extreme] * targets.shape[-1])[:, None].requires_grad_()
    divergence = class_divergence(student, targets, student_activation)
    assert divergence.shape == (student.shape[0], teacher.shape[0])
    assert divergence.isfinite().all()
    # Values up to 300 in float32 are rounded by some 1e-5.
    assert (divergence > -1e-4).all()
    divergence.sum().backward()
    assert student.grad.isfinite().all()


def test_unknown_activation_lists_the_valid_ones(draw):
    with pytest.raises(ValueError, match='softmax'):
        soft_targets(draw.normal(2, 3), 'relu', 'sigmoid')

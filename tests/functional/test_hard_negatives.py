"""The negatives of `logits_kd` that are matched and distilled."""

import pytest
import torch
from torch.testing import assert_close

from mmdet_detrdistill.functional.boxes import best_giou
from mmdet_detrdistill.functional.logits_kd import LogitsKDOptions
from tests.functional.cases import f64, logits_kd
from tests.functional.test_logits_kd import (
    PRESETS,
    check_against_reference,
    keep,
    one_image,
    total,
)

OBJECT = [0.5, 0.5, 0.2, 0.2]
NEAR = [0.6, 0.5, 0.2, 0.2]  # inter 0.02, union 0.06 = hull: GIoU 1 / 3
FAR = [0.1, 0.1, 0.2, 0.2]


def test_value_by_hand():
    # The student is off by 0.1 in cx everywhere; teacher queries: the object, near it, far from it.
    boxes = f64([OBJECT, NEAR, FAR])[None, None]
    logits = torch.zeros(1, 1, 3, 1).double()
    shifted = boxes + f64([0.0, 0.1, 0.0, 0.0])
    case = (logits, shifted, logits, boxes, keep(True, False, False))
    weights = dict(bbox_weight=1.0, gt_boxes=[f64([OBJECT])])
    shifted[0, 0, 1, 1] += 0.1  # the student of NEAR by 0.2, that of FAR by 0.3
    shifted[0, 0, 2, 1] += 0.2
    every, hard, none = (
        logits_kd(*case, **weights, negatives=negatives) for negatives in ('all', 'hard', 'none')
    )
    assert_close([terms['bbox'] for terms in (every, hard, none)], [f64(0.1)] * 3)
    assert_close(every['neg_bbox'], f64((0.2 + 0.3) / 2))
    assert_close(hard['neg_bbox'], f64(0.2))
    assert set(none) == {'cls', 'bbox', 'giou', 'entropy'}
    # A GIoU of 1 / 3 is not hard where more is asked for.
    assert_close(logits_kd(*case, **weights, negatives='hard', hard_giou=0.4)['neg_bbox'], f64(0.0))


def test_best_giou_by_hand():
    giou = best_giou(
        f64([[OBJECT, NEAR], [OBJECT, NEAR]])[None], [f64([OBJECT, FAR]), f64([]).reshape(0, 4)]
    )
    assert_close(giou, f64([[[1.0, 1 / 3], [-1.0, -1.0]]]))


def make(draw, **options):
    case = draw.logits_case(student_stages=2, teacher_stages=2, **options)
    case.gt_boxes = [draw.boxes(count) for count in (3, 2, 0)]
    return case


@pytest.mark.parametrize('options', PRESETS)
@pytest.mark.parametrize('hard_giou', [0.0, 0.2])
@pytest.mark.parametrize('negatives', ['hard', 'none'])
def test_equals_reference(draw, options, negatives, hard_giou):
    case = make(draw)
    check_against_reference(case, dict(options, negatives=negatives, hard_giou=hard_giou))


def test_some_negatives_are_hard_and_some_are_not(draw):
    """Else the reference says nothing."""
    case = make(draw)
    hard = best_giou(case.teacher_boxes, case.gt_boxes) > 0
    negative = hard[~case.teacher_positive_mask]
    assert negative.any() and not negative.all()


@pytest.mark.parametrize('options', PRESETS)
def test_zero_at_equality(draw, options):
    case = make(draw, student_queries=8)
    case.teacher_boxes[..., 2:] *= 0.2
    case.student_logits, case.student_boxes = case.teacher_logits, case.teacher_boxes
    terms = logits_kd(**vars(case), **options, negatives='hard')
    assert_close(total(terms), f64(0.0))


def test_no_objects(draw):
    case = make(draw, positives=(0, 0, 0))
    case.gt_boxes = [draw.boxes(0)] * 3
    assert_close(total(logits_kd(**vars(case), negatives='hard')), f64(0.0))


def test_teacher_gets_no_gradient(draw):
    case = make(draw)
    case.teacher_boxes.requires_grad_()
    total(logits_kd(**vars(case), negatives='hard')).backward()
    assert case.teacher_boxes.grad is None
    assert case.student_boxes.grad.abs().sum() > 0


def test_without_objects_given_is_an_error(draw):
    with pytest.raises(ValueError, match='gt_boxes'):
        logits_kd(**vars(draw.logits_case()), negatives='hard')


def test_the_positives_have_to_be_known():
    assert LogitsKDOptions(matching='joint', negative_cls=True, negatives='hard').needs_positives
    case = one_image([[0.0]], [OBJECT])
    with pytest.raises(ValueError, match='teacher_positive_mask'):
        logits_kd(*case, *case, None, matching='joint', negative_cls=True, negatives='none')

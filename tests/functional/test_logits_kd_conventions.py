"""What `logits_kd` promises about order, format, units, denominators and masks."""

import math

import pytest
import torch
from torch.testing import assert_close

from tests.functional.cases import f64, logits_kd
from tests.functional.test_logits_kd import (
    HAND_BOX,
    PAPER,
    PRESETS,
    RELEASED,
    keep,
    one_image,
    total,
)


def test_convention_matching():
    # Students at cx 0.3 and 0.7; the positive at 0.4, the negative at 0.35, all of one size.
    # Separate: both take the student at 0.3: L1 0.1 and 0.05. Joint: 0.4 -> 0.7 and
    # 0.35 -> 0.3 cost 0.3 + 0.05, 0.4 -> 0.3 and 0.35 -> 0.7 cost 0.1 + 0.35: the first,
    # a mean of 0.175. (GIoU prefers the first as well, classes are equal.)
    student = one_image([[0.0], [0.0]], [[0.3, 0.5, 0.2, 0.2], [0.7, 0.5, 0.2, 0.2]])
    teacher = one_image([[1.0], [1.0]], [[0.4, 0.5, 0.2, 0.2], [0.35, 0.5, 0.2, 0.2]])
    weights = {'cls_weight': 1.0, 'bbox_weight': 5.0, 'giou_weight': 1e-3}
    separate = logits_kd(*student, *teacher, keep(True, False), **PAPER, **weights)
    assert_close(separate['bbox'], f64(5 * 0.1))
    assert_close(separate['neg_bbox'], f64(5 * 0.05))
    joint = logits_kd(*student, *teacher, keep(True, False), **RELEASED, **weights)
    assert_close(joint['bbox'], f64(5 * 0.175))


def test_convention_terms(draw):
    case = draw.logits_case()
    box_terms = {'bbox', 'giou', 'neg_bbox', 'neg_giou'}
    assert set(logits_kd(**vars(case))) == box_terms | {'cls', 'entropy'}
    with_class = logits_kd(**vars(case), negative_cls=True)
    assert set(with_class) == box_terms | {'cls', 'neg_cls', 'entropy'}
    for negative_cls in (False, True):
        terms = logits_kd(**vars(case), matching='joint', negative_cls=negative_cls)
        assert set(terms) == {'cls', 'bbox', 'giou', 'entropy'}
    assert all(value.shape == () for value in terms.values())


def test_convention_boxes_are_cxcywh():
    # As cxcywh the boxes touch at x = 0.4: inter 0, union = hull = 0.16, GIoU 0. With w and h
    # swapped they would overlap: inter 0.04, union = hull = 0.12, GIoU 1 / 3.
    student = one_image([[0.0]], [[0.3, 0.5, 0.2, 0.4]])
    teacher = one_image([[0.0]], [[0.5, 0.5, 0.2, 0.4]])
    terms = logits_kd(*student, *teacher, keep(True))
    assert_close(terms['giou'], f64(2.0))
    assert_close(terms['bbox'], f64(5 * 0.2))


def test_convention_teacher_boxes_are_cut_at_the_image():
    # x from -0.2 to 0.2 becomes 0 to 0.2, which the student predicts.
    student = one_image([[0.0]], [[0.1, 0.5, 0.2, 0.4]])
    teacher = one_image([[0.0]], [[0.0, 0.5, 0.4, 0.4]])
    terms = logits_kd(*student, *teacher, keep(True))
    assert_close(total(terms), f64(0.0))
    # The student's box is not cut: L1 0.1 + 0.2.
    terms = logits_kd(*teacher, *student, keep(True))
    assert_close(terms['bbox'], f64(5 * 0.3))


def test_convention_student_first():
    # Target 0.75, score 0.5: ln 2 - H(0.75). The other way: CE of 0.5 at 0.75 less ln 2.
    box = [[0.5, 0.5, 0.2, 0.2]]
    zero, three = one_image([[0.0]], box), one_image([[math.log(3)]], box)
    floor = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert_close(logits_kd(*zero, *three, keep(True))['cls'], f64(math.log(2) - floor))
    other = 0.5 * math.log(4 / 3) + 0.5 * math.log(4) - math.log(2)
    assert_close(logits_kd(*three, *zero, keep(True))['cls'], f64(other))


def test_convention_softmax_background_is_last():
    # Student K + 1 = 3 channels, uniform; teacher sigmoid with p = (0.8, 0.2):
    # targets (0.64, 0.16, 0.2), cross entropy ln 3.
    student = one_image([[0.0, 0.0, 0.0]], [HAND_BOX])
    teacher = one_image([[math.log(4), -math.log(4)]], [HAND_BOX])
    terms = logits_kd(*student, *teacher, keep(True), student_activation='softmax')
    floor = -sum(p * math.log(p) for p in (0.64, 0.16, 0.2))
    assert_close(terms['cls'], f64(math.log(3) - floor))
    assert_close(terms['entropy'], f64(floor))


@pytest.mark.parametrize('matching', ['separate', 'joint'])
def test_convention_student_mask_true_is_kept(draw, matching):
    case = draw.logits_case(positives=(3, 2))
    mask = torch.tensor([True, False, True, True, False, True])
    expected = logits_kd(
        case.student_logits[:, :, mask], case.student_boxes[:, :, mask], case.teacher_logits,
        case.teacher_boxes, case.teacher_positive_mask, matching=matching,
    )  # fmt: skip
    student_mask = mask.expand(3, 2, 6)
    terms = logits_kd(**vars(case), student_mask=student_mask, matching=matching)
    assert_close(terms, expected)
    total(terms).backward()
    # An unmatched student query gets no target at all.
    assert not case.student_logits.grad[:, :, ~mask].any()
    assert not case.student_boxes.grad[:, :, ~mask].any()


@pytest.mark.parametrize('matching', ['separate', 'joint'])
def test_convention_teacher_mask_true_is_kept(draw, matching):
    case = draw.logits_case(positives=(3, 2))
    mask = draw.permutation(8) < 5
    expected = logits_kd(
        case.student_logits, case.student_boxes, case.teacher_logits[:, :, mask],
        case.teacher_boxes[:, :, mask], case.teacher_positive_mask[:, :, mask], matching=matching,
    )  # fmt: skip
    terms = logits_kd(**vars(case), teacher_mask=mask.expand(3, 2, 8), matching=matching)
    assert_close(terms, expected)


def test_unmatched_student_gets_no_gradient(draw):
    case = draw.logits_case(student_queries=8, teacher_queries=3, positives=(3, 3))
    total(logits_kd(**vars(case))).backward()
    touched = case.student_boxes.grad.abs().sum(-1) > 0
    assert (touched.sum(-1) == 3).all()


def test_convention_denominator_is_the_number_of_pairs():
    # Two equal images with one positive each and 3 negatives, all boxes off by 0.1 in cx:
    # means over 2 and 6 pairs are the distance of one pair, times 5.
    boxes = [[0.2, y, 0.1, 0.1] for y in (0.2, 0.4, 0.6, 0.8)]
    logits, target_boxes = one_image([[0.0]] * 4, boxes)
    student_boxes = target_boxes + f64([0.1, 0.0, 0.0, 0.0])
    two = [x.repeat(1, 2, 1, 1) for x in (logits, student_boxes, logits, target_boxes)]
    positive = keep(True, False, False, False).repeat(1, 2, 1)
    terms = logits_kd(*two, positive)
    assert_close(terms['bbox'], f64(0.5))
    assert_close(terms['neg_bbox'], f64(0.5))
    assert_close(logits_kd(*two, positive, **RELEASED)['bbox'], f64(0.5))


@pytest.mark.parametrize('options', PRESETS)
def test_convention_reduce_averages_the_counts(draw, options):
    case = draw.logits_case(student_stages=1, teacher_stages=1, positives=(3, 2, 1))
    seen = []

    def reduce(count):
        seen.append(count)
        return count * 2

    terms = logits_kd(**vars(case), reduce=reduce, **options)
    plain = logits_kd(**vars(case), **options)
    assert_close(terms, {name: value / 2 for name, value in plain.items()})
    # Processes talk to each other once, whatever the number of sets, terms and stages.
    assert len(seen) == 1
    assert seen[0].shape == (len(terms), 1)  # one count per term and pair of stages


def test_convention_weights_scale_the_terms(draw):
    case = draw.logits_case()
    once = logits_kd(**vars(case))
    twice = logits_kd(**vars(case), cls_weight=2.0, bbox_weight=10.0, giou_weight=4.0)
    assert_close(twice, {name: 2 * value for name, value in once.items()})


def test_convention_stages_are_summed(draw):
    case = draw.logits_case(student_stages=3, teacher_stages=3)
    singles = [
        logits_kd(**{name: value[s : s + 1] for name, value in vars(case).items()})
        for s in range(3)
    ]
    for name, value in logits_kd(**vars(case)).items():
        assert_close(value, sum(single[name] for single in singles))


def test_convention_groups(draw):
    case = draw.logits_case(student_stages=1, teacher_stages=2)
    per_stage = []
    for t in range(2):
        teacher = {k: v[t : t + 1] for k, v in vars(case).items() if k.startswith('teacher')}
        per_stage.append(logits_kd(case.student_logits, case.student_boxes, **teacher))
    for name in per_stage[0]:
        first, last = per_stage[0][name], per_stage[1][name]
        assert_close(logits_kd(**vars(case))[name], (first + last) / 2)
        assert_close(logits_kd(**vars(case), group_reduction='sum')[name], first + last)
        assert_close(logits_kd(**vars(case), pairing='last')[name], last)
        assert_close(logits_kd(**vars(case), pairing='uniform')[name], last)


@pytest.mark.parametrize(
    'option', ['matching', 'pairing', 'group_reduction', 'student_activation', 'teacher_activation']
)
def test_unknown_option_is_an_error(draw, option):
    with pytest.raises(ValueError, match='nonsense'):
        logits_kd(**vars(draw.logits_case()), **{option: 'nonsense'})


@pytest.mark.parametrize('tensor', ['logits', 'boxes'])
@pytest.mark.parametrize(
    'side, value',
    [(side, value) for side in ('student', 'teacher') for value in (math.nan, math.inf)],
)
def test_non_finite_names_side_stage_and_image(draw, side, tensor, value):
    case = draw.logits_case()
    getattr(case, f'{side}_{tensor}').data[1, 2, 3, 0] = value
    with pytest.raises(ValueError) as error:
        logits_kd(**vars(case))
    for part in (side, 'stage 1', 'image 2'):
        assert part in str(error.value)

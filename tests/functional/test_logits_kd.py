import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from tests.functional.cases import f64, logits_kd
from tests.reference import logits_kd_reference

PAPER = {'matching': 'separate', 'negative_cls': False}
RELEASED = {'matching': 'joint', 'negative_cls': True}
PRESETS = [pytest.param(PAPER, id='paper'), pytest.param(RELEASED, id='released')]


def total(terms):
    """The loss: every term but the statistic."""
    return sum(value for name, value in terms.items() if name != 'entropy')


def one_image(logits, boxes):
    """Lists over queries -> (1, 1, N, C) and (1, 1, N, 4)."""
    return f64(logits)[None, None], f64(boxes)[None, None]


def keep(*values):
    return torch.tensor(values)[None, None]


HAND_BOX = [0.5, 0.5, 0.2, 0.4]
HAND_GOAL = [0.5, 0.5, 0.4, 0.2]
# inter 0.2 * 0.2, union 0.08 + 0.08 - 0.04 = 0.12, hull 0.4 * 0.4 = 0.16.
HAND_GIOU = 0.04 / 0.12 - (0.16 - 0.12) / 0.16


def test_value_by_hand():
    # Logit 0 against p = 0.75: BCE ln 2, entropy 0.75 ln(4 / 3) + 0.25 ln 4.
    # L1 0.2 + 0.2, times 5; 1 - GIoU, times 2.
    student = one_image([[0.0]], [HAND_BOX])
    teacher = one_image([[math.log(3)]], [HAND_GOAL])
    floor = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    terms = logits_kd(*student, *teacher, keep(True))
    expected = {
        'cls': f64(math.log(2) - floor),
        'bbox': f64(5 * 0.4),
        'giou': f64(2 * (1 - HAND_GIOU)),
        'neg_bbox': f64(0.0),
        'neg_giou': f64(0.0),
        'entropy': f64(floor),
    }
    assert_close(terms, expected)
    # The same pair as a negative: box only.
    terms = logits_kd(*student, *teacher, keep(False))
    zero = f64(0.0)
    expected = {
        'cls': zero,
        'bbox': zero,
        'giou': zero,
        'neg_bbox': f64(5 * 0.4),
        'neg_giou': f64(2 * (1 - HAND_GIOU)),
        'entropy': zero,
    }
    assert_close(terms, expected)


@pytest.mark.parametrize('options', PRESETS)
@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
def test_zero_at_equality(draw, options, activation):
    case = draw.logits_case(student_queries=8, student_activation=activation)
    student = case.student_logits, case.student_boxes
    teacher = case.student_logits, case.student_boxes
    # Boxes inside the image: the teacher's are cut at its border.
    student[1].data[..., 2:] *= 0.2
    terms = logits_kd(
        *student, *teacher, case.teacher_positive_mask,
        student_activation=activation, teacher_activation=activation, **options,
    )  # fmt: skip
    assert terms.pop('entropy') > 0.1
    assert_close(terms, {name: f64(0.0) for name in terms})


@pytest.mark.parametrize('options', PRESETS)
@pytest.mark.parametrize('seed', range(3))
def test_non_negative(draw, options, seed):
    draw.generator.manual_seed(seed)
    terms = logits_kd(**vars(draw.logits_case()), **options)
    for name, value in terms.items():
        assert value >= 0, name


@pytest.mark.parametrize('options', PRESETS)
def test_equals_known_limit(draw, options):
    """One-to-one with a certain teacher is plain BCE, L1 and 1 - GIoU of the pairs."""
    case = draw.logits_case(
        student_stages=1, teacher_stages=1, student_queries=8, positives=(8, 8), num_classes=4
    )
    labels = F.one_hot(draw.integers(4, 1, 2, 8), 4).double()
    # Close boxes, so that query i is matched with query i.
    boxes = case.teacher_boxes * f64([1.0, 1.0, 0.2, 0.2])
    noise = 1e-3 * draw.normal(*boxes.shape)
    weights = {'bbox_weight': 500.0, 'giou_weight': 200.0}
    terms = logits_kd(
        case.student_logits, boxes + noise, 200 * labels - 100, boxes,
        case.teacher_positive_mask, **weights, **options,
    )  # fmt: skip
    bce = F.binary_cross_entropy_with_logits(case.student_logits, labels, reduction='sum')
    assert_close(terms['cls'], bce / 16)
    assert_close(terms['bbox'], 500 * F.l1_loss(boxes + noise, boxes, reduction='sum') / 16)
    assert_close(terms['entropy'], f64(0.0))


@pytest.mark.parametrize('options', PRESETS)
def test_permutation_of_student_queries(draw, options):
    case = draw.logits_case()
    expected = logits_kd(**vars(case), **options)
    order = draw.permutation(case.student_logits.shape[2])
    case.student_logits = case.student_logits[:, :, order]
    case.student_boxes = case.student_boxes[:, :, order]
    assert_close(logits_kd(**vars(case), **options), expected)
    order = draw.permutation(case.teacher_logits.shape[2])
    for name in ('teacher_logits', 'teacher_boxes', 'teacher_positive_mask'):
        setattr(case, name, getattr(case, name)[:, :, order])
    assert_close(logits_kd(**vars(case), **options), expected)


@pytest.mark.parametrize('options', PRESETS)
def test_permuted_sets_are_equal(draw, options):
    case = draw.logits_case(positives=(3, 2))
    boxes = case.teacher_boxes * f64([1.0, 1.0, 0.2, 0.2])
    order = draw.permutation(8)
    student = case.teacher_logits[:, :, order], boxes[:, :, order]
    terms = logits_kd(*student, case.teacher_logits, boxes, case.teacher_positive_mask, **options)
    del terms['entropy']
    assert_close(terms, {name: f64(0.0) for name in terms})


@pytest.mark.parametrize('options', PRESETS)
def test_batch_equals_single(draw, options):
    # Equal counts of pairs per image, so the batch is the mean of its images.
    case = draw.logits_case(positives=(2, 2, 2))
    batch = logits_kd(**vars(case), **options)
    singles = [
        logits_kd(**{name: value[:, b : b + 1] for name, value in vars(case).items()}, **options)
        for b in range(3)
    ]
    for name, value in batch.items():
        assert_close(value, torch.stack([single[name] for single in singles]).mean())


def test_no_objects(draw):
    case = draw.logits_case(positives=(0, 0))
    terms = logits_kd(**vars(case))
    for name in ('cls', 'bbox', 'giou', 'entropy'):
        assert_close(terms[name], f64(0.0))
    # Logits distillation stays active: every query is a negative.
    assert terms['neg_bbox'] > 0
    assert terms['neg_giou'] > 0
    total(terms).backward()
    assert case.student_boxes.grad.abs().sum() > 0
    terms = logits_kd(**vars(case), **RELEASED)
    assert all(value > 0 for value in terms.values())


@pytest.mark.parametrize('options', PRESETS)
def test_more_objects_than_queries(draw, options):
    # 3 student queries, 7 positives of 8: 3 pairs per image, and every student query is used.
    case = draw.logits_case(student_queries=3, positives=(7, 7))
    terms = logits_kd(**vars(case), **options)
    assert_close(terms, logits_kd_reference(**vars(case), **options))
    total(terms).backward()
    assert (case.student_boxes.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize('options', PRESETS)
@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
def test_gradcheck(draw, options, activation):
    case = draw.logits_case(
        student_stages=1, teacher_stages=2, student_queries=3, teacher_queries=4, positives=(2, 1),
        student_activation=activation, teacher_activation=activation,
    )  # fmt: skip
    teacher = case.teacher_logits, case.teacher_boxes, case.teacher_positive_mask

    def loss(logits, boxes):
        kinds = {'student_activation': activation, 'teacher_activation': activation}
        terms = logits_kd(logits, boxes, *teacher, **kinds, **options)
        return tuple(value for name, value in terms.items() if name != 'entropy')

    assert torch.autograd.gradcheck(loss, (case.student_logits, case.student_boxes))


@pytest.mark.parametrize('options', PRESETS)
def test_teacher_gets_no_gradient(draw, options):
    case = draw.logits_case()
    case.teacher_logits.requires_grad_()
    case.teacher_boxes.requires_grad_()
    terms = logits_kd(**vars(case), **options)
    assert not terms['entropy'].requires_grad
    total(terms).backward()
    assert case.teacher_logits.grad is None
    assert case.teacher_boxes.grad is None
    assert case.student_logits.grad.abs().sum() > 0
    assert case.student_boxes.grad.abs().sum() > 0


@pytest.mark.parametrize('options', PRESETS)
@pytest.mark.parametrize('student_activation', ['sigmoid', 'softmax'])
@pytest.mark.parametrize('teacher_activation', ['sigmoid', 'softmax'])
def test_numeric_stability(draw, options, student_activation, teacher_activation):
    draw.dtype = torch.float32
    kinds = {'student_activation': student_activation, 'teacher_activation': teacher_activation}
    case = draw.logits_case(**kinds)
    case.student_logits.data = case.student_logits.data.sign() * 100
    case.teacher_logits = case.teacher_logits.sign() * 100
    case.student_boxes.data[:, :, 0, 2:] = 0.0
    case.teacher_boxes[:, :, 0] = torch.tensor([1.5, 0.5, 0.2, 0.2])  # outside the image
    terms = logits_kd(**vars(case), **kinds, **options)
    assert all(value.isfinite() for value in terms.values())
    total(terms).backward()
    assert case.student_logits.grad.isfinite().all()
    assert case.student_boxes.grad.isfinite().all()


# ------------------------------------------------------------------------------ reference

SWITCHED = [
    {},
    {'matching': 'separate'},
    {'matching': 'joint'},
    {'negative_cls': True},
    {'negative_cls': False},
    {'pairing': 'last'},
    {'pairing': 'uniform'},
    {'group_reduction': 'sum'},
    {'student_activation': 'softmax'},
    {'teacher_activation': 'softmax'},
    {'student_activation': 'softmax', 'teacher_activation': 'softmax'},
    {'cls_weight': 3.0},
    {'bbox_weight': 0.5},
    {'giou_weight': 0.0},
    {'reduce': lambda count: count * 1.5 + 1},
]


@pytest.mark.parametrize('options', PRESETS)
@pytest.mark.parametrize('switch', SWITCHED, ids=lambda switch: '-'.join(map(str, switch)) or '-')
def test_equals_reference(draw, options, switch):
    kinds = {name: kind for name, kind in switch.items() if name.endswith('_activation')}
    case = draw.logits_case(student_stages=2, teacher_stages=4, **kinds)
    check_against_reference(case, {**options, **switch})


@pytest.mark.parametrize('options', PRESETS)
@pytest.mark.parametrize('student_stages, teacher_stages', [(3, 6), (6, 3), (2, 6), (6, 2), (1, 1)])
def test_equals_reference_for_stages(draw, options, student_stages, teacher_stages):
    case = draw.logits_case(
        student_stages=student_stages, teacher_stages=teacher_stages, positives=(2, 0)
    )
    check_against_reference(case, options)


@pytest.mark.parametrize('options', PRESETS)
@pytest.mark.parametrize('student_queries, teacher_queries', [(20, 33), (33, 20)])
def test_equals_reference_for_query_counts(draw, options, student_queries, teacher_queries):
    case = draw.logits_case(
        student_stages=1, teacher_stages=2, student_queries=student_queries,
        teacher_queries=teacher_queries, positives=(7, 0),
    )  # fmt: skip
    check_against_reference(case, options)


@pytest.mark.parametrize('options', PRESETS)
@pytest.mark.parametrize('masked', ['student', 'teacher', 'both'])
def test_equals_reference_with_masks(draw, options, masked):
    case = draw.logits_case()
    masks = {}
    if masked != 'teacher':
        masks['student_mask'] = draw.uniform(*case.student_logits.shape[:3]) < 0.6
    if masked != 'student':
        masks['teacher_mask'] = draw.uniform(*case.teacher_logits.shape[:3]) < 0.6
    check_against_reference(case, {**options, **masks})


def check_against_reference(case, options):
    """Values and the student's gradients."""
    student = case.student_logits, case.student_boxes
    terms = logits_kd(**vars(case), **options)
    expected = logits_kd_reference(**vars(case), **options)
    assert set(terms) == set(expected)
    for name, value in expected.items():
        reference = value if isinstance(value, torch.Tensor) else f64(value)
        assert_close(terms[name], reference, rtol=1e-5, atol=1e-5, msg=name)
    gradients = torch.autograd.grad(total(terms), student, allow_unused=True)
    assert_close(gradients, torch.autograd.grad(total(expected), student), rtol=1e-5, atol=1e-5)

import math

import pytest
import torch
from torch.testing import assert_close

from tests import reference_terms as terms_of
from tests.functional.cases import aligned_kd, f64, logits_kd
from tests.functional.test_logits_kd import HAND_BOX, HAND_GIOU, HAND_GOAL, keep, one_image, total
from tests.reference_aligned import aligned_kd_reference


def make(draw, **options):
    """Both sides answer the same 6 queries."""
    return draw.logits_case(student_queries=6, teacher_queries=6, **options)


def looped(case, negative_cls=True):
    """Every image, query and stage by itself; equal numbers of stages, sigmoid heads."""
    stages, images, queries, _ = case.student_logits.shape
    result = {}
    for s in range(stages):
        for prefix, positive in (('', True), ('neg_', False)):
            sums = {'cls': 0.0, 'bbox': 0.0, 'giou': 0.0, 'entropy': 0.0}
            count = 0
            for b in range(images):
                for i in range(queries):
                    if bool(case.teacher_positive_mask[s, b, i]) != positive:
                        continue
                    count += 1
                    logits, box = case.student_logits[s, b, i], case.student_boxes[s, b, i]
                    target = [terms_of.sigmoid(x) for x in case.teacher_logits[s, b, i].tolist()]
                    target_box = terms_of.clamped_to_image(case.teacher_boxes[s, b, i].tolist())
                    floor = terms_of.entropy(target, 'sigmoid')
                    ce = terms_of.cross_entropy(list(logits), target, 'sigmoid')
                    pair = terms_of.corners(list(box)), terms_of.corners(target_box)
                    sums['cls'] += ce - floor
                    sums['entropy'] += floor
                    sums['bbox'] += 5 * terms_of.l1(list(box), target_box)
                    sums['giou'] += 2 * (1 - terms_of.iou_and_giou(*pair)[1])
            for name, value in sums.items():
                key = name if name == 'entropy' else prefix + name
                if positive or negative_cls or name not in ('cls', 'entropy'):
                    result[key] = result.get(key, 0.0) + value / max(count, 1)
    return {
        name: value if isinstance(value, torch.Tensor) else f64(value)
        for name, value in result.items()
    }


def test_value_by_hand():
    # As in `logits_kd`: ln 2 - H(0.75), 5 * 0.4, 2 * (1 - 1 / 12), here of a negative.
    student = one_image([[0.0]], [HAND_BOX])
    teacher = one_image([[math.log(3)]], [HAND_GOAL])
    floor = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    terms = aligned_kd(*student, *teacher, keep(False))
    assert_close(terms['neg_cls'], f64(math.log(2) - floor))
    assert_close(terms['neg_bbox'], f64(5 * 0.4))
    assert_close(terms['neg_giou'], f64(2 * (1 - HAND_GIOU)))
    assert_close([terms[name] for name in ('cls', 'bbox', 'giou')], [f64(0.0)] * 3)
    assert_close(terms['entropy'], f64(floor))


def test_zero_at_equality(draw):
    case = make(draw)
    case.teacher_logits = case.student_logits.detach()
    case.student_boxes.data[..., 2:] *= 0.2  # inside the image
    case.teacher_boxes = case.student_boxes.detach()
    assert_close(total(aligned_kd(**vars(case))), f64(0.0))


def test_non_negative(draw):
    assert all(value >= 0 for value in aligned_kd(**vars(make(draw))).values())


def test_equals_known_limit(draw):
    """Where matching pairs equal indices it is `logits_kd`."""
    case = make(draw, positives=(6, 6))
    case.student_boxes = case.teacher_boxes * f64([1.0, 1.0, 0.1, 0.1])
    case.teacher_boxes = case.student_boxes + 1e-3 * draw.normal(*case.student_boxes.shape)
    weights = {'bbox_weight': 500.0, 'giou_weight': 200.0}
    expected = logits_kd(**vars(case), **weights, negative_cls=True)
    assert_close(aligned_kd(**vars(case), **weights), expected)


def test_permutation_of_student_queries(draw):
    """Index to index: order matters on one side alone, not on both together."""
    case = make(draw)
    expected = aligned_kd(**vars(case))
    order = torch.arange(6).flip(0)
    alone = {**vars(case), 'student_boxes': case.student_boxes[:, :, order]}
    assert not torch.isclose(total(aligned_kd(**alone)), total(expected))
    both = {name: value[:, :, order] for name, value in vars(case).items()}
    assert_close(aligned_kd(**both), expected)


def test_batch_equals_single(draw):
    case = make(draw, positives=(2, 2, 2))
    singles = [
        aligned_kd(**{name: value[:, b : b + 1] for name, value in vars(case).items()})
        for b in range(3)
    ]
    for name, value in aligned_kd(**vars(case)).items():
        assert_close(value, torch.stack([single[name] for single in singles]).mean())


def test_no_objects(draw):
    terms = aligned_kd(**vars(make(draw, positives=(0, 0))))
    assert_close([terms[name] for name in ('cls', 'bbox', 'giou')], [f64(0.0)] * 3)
    assert terms['neg_cls'] > 0


def test_gradcheck(draw):
    case = make(draw, student_stages=1, teacher_stages=2, positives=(2, 0))
    teacher = case.teacher_logits, case.teacher_boxes, case.teacher_positive_mask
    assert torch.autograd.gradcheck(
        lambda logits, boxes: total(aligned_kd(logits, boxes, *teacher)),
        (case.student_logits, case.student_boxes),
    )


def test_teacher_gets_no_gradient(draw):
    case = make(draw)
    case.teacher_logits.requires_grad_()
    case.teacher_boxes.requires_grad_()
    total(aligned_kd(**vars(case))).backward()
    assert case.teacher_logits.grad is None
    assert case.teacher_boxes.grad is None
    assert (case.student_boxes.grad.abs().sum(-1) > 0).all()


def test_numeric_stability(draw):
    draw.dtype = torch.float32
    case = make(draw)
    case.student_logits.data = case.student_logits.data.sign() * 100
    case.teacher_logits = case.teacher_logits.sign() * 100
    case.student_boxes.data[:, :, 0, 2:] = 0.0
    total(aligned_kd(**vars(case))).backward()
    assert case.student_logits.grad.isfinite().all()
    assert case.student_boxes.grad.isfinite().all()


@pytest.mark.parametrize('side', ['student_mask', 'teacher_mask'])
def test_convention_mask_true_is_kept(draw, side):
    case = make(draw)
    mask = torch.tensor([True, False, True, True, False, True])
    rest = {name: value[:, :, mask] for name, value in vars(case).items()}
    terms = aligned_kd(**vars(case), **{side: mask.expand(3, 3, 6)})
    assert_close(terms, aligned_kd(**rest))


def test_other_number_of_queries_is_an_error(draw):
    with pytest.raises(ValueError, match='6 queries'):
        aligned_kd(**vars(draw.logits_case()))


@pytest.mark.parametrize('negative_cls', [True, False])
def test_equals_reference(draw, negative_cls):
    case = make(draw)
    terms = aligned_kd(**vars(case), negative_cls=negative_cls)
    assert_close(terms, looped(case, negative_cls), rtol=1e-5, atol=1e-5)


def test_mean_weighted_with_the_confidence_by_hand():
    # Best scores 0.75 and 0.25 + 0.25: weights 0.6 and 0.4 of a mean. Only the first box is off.
    student = one_image([[0.0, 0.0], [0.0, 0.0]], [HAND_BOX, HAND_GOAL])
    teacher = one_image([[-9.0, math.log(3)], [0.0, 0.0]], [HAND_GOAL, HAND_GOAL])
    floor = sum(p * math.log(1 / p) for p in (0.75, 0.25)), 2 * math.log(2)
    tiny = 1 / (1 + math.exp(9))
    floor = floor[0] - sum(p * math.log(p) for p in (tiny, 1 - tiny)), floor[1]
    terms = aligned_kd(*student, *teacher, None, by_confidence=True)
    expected = {
        'cls': f64(0.6 * (2 * math.log(2) - floor[0])),
        'bbox': f64(0.6 * 5 * 0.4),
        'giou': f64(0.6 * 2 * (1 - HAND_GIOU)),
        'entropy': f64(0.6 * floor[0] + 0.4 * floor[1]),
    }
    assert_close(terms, expected)
    terms = aligned_kd(*student, *teacher, None)  # each counts the same
    assert_close(terms['bbox'], f64(0.5 * 5 * 0.4))


@pytest.mark.parametrize('by_confidence', [True, False])
def test_one_set_of_queries_is_zero_at_equality(draw, by_confidence):
    case = make(draw)
    case.teacher_logits = case.student_logits.detach()
    case.student_boxes.data[..., 2:] *= 0.2
    case.teacher_boxes = case.student_boxes.detach()
    case.teacher_positive_mask = None
    assert_close(total(aligned_kd(**vars(case), by_confidence=by_confidence)), f64(0.0))


def test_confidence_gets_no_gradient(draw):
    case = make(draw)
    case.teacher_logits.requires_grad_()
    case.teacher_positive_mask = None
    total(aligned_kd(**vars(case), by_confidence=True)).backward()
    assert case.teacher_logits.grad is None
    assert (case.student_boxes.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize('by_confidence', [True, False])
@pytest.mark.parametrize('kinds', [('sigmoid', 'sigmoid'), ('softmax', 'sigmoid')], ids=str)
def test_one_set_of_queries_equals_reference(draw, kinds, by_confidence):
    kinds = dict(zip(('student_activation', 'teacher_activation'), kinds))
    case = make(draw, student_stages=2, teacher_stages=4, **kinds)
    case.teacher_positive_mask = None
    rest = dict(**kinds, by_confidence=by_confidence, teacher_mask=draw.uniform(4, 3, 6) > 0.3)
    terms = aligned_kd(**vars(case), **rest)
    expected = aligned_kd_reference(*vars(case).values(), **rest)
    assert set(terms) == set(expected) == {'cls', 'bbox', 'giou', 'entropy'}
    for name, value in expected.items():
        assert_close(terms[name], torch.as_tensor(value).to(terms[name]), rtol=1e-5, atol=1e-5)

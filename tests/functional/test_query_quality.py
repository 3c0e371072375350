import pytest
import torch
from torch.testing import assert_close

from tests.functional.cases import f64, query_quality
from tests.reference import query_quality_reference


def one_image(probs, boxes):
    """Lists over queries -> (1, 1, N, K) and (1, 1, N, 4)."""
    return f64(probs)[None, None], f64(boxes)[None, None]


BOX = [0.5, 0.5, 0.2, 0.2]
QUARTER = [0.5, 0.5, 0.1, 0.1]  # a quarter of BOX, inside it: IoU 0.25


def case(draw, *, stages=2, queries=12, num_classes=4, objects=(3, 2, 0)):
    probs = draw.uniform(stages, len(objects), queries, num_classes)
    boxes = draw.boxes(stages, len(objects), queries)
    gt_boxes = [draw.boxes(count) for count in objects]
    return probs, boxes, gt_boxes, draw.assignment(stages, queries, objects)


def test_value_by_hand():
    # Eq. 8 with gamma 0.5: sqrt(0.64) * sqrt(0.25) = 0.4; unassigned: 0.
    quality = query_quality(
        *one_image([[0.3, 0.64], [0.9, 0.1]], [QUARTER, BOX]), [f64([BOX])],
        torch.tensor([[[0, -1]]]),
    )  # fmt: skip
    assert_close(quality, f64([[[0.4, 0.0]]]))
    # Released form: score times best IoU, the classes kept of one query added up:
    # the three best of (0.3, 0.64, 0.9, 0.1) are 0.9, 0.64 and 0.3.
    quality = query_quality(
        *one_image([[0.3, 0.64], [0.9, 0.1]], [QUARTER, BOX]), [f64([BOX])],
        quality='max_iou', topk=3,
    )  # fmt: skip
    assert_close(quality, f64([[[0.94 * 0.25, 0.9]]]))


def test_non_negative(draw):
    probs, boxes, gt_boxes, assignment = case(draw)
    for form in ('matched_iou', 'max_iou'):
        quality = query_quality(probs, boxes, gt_boxes, assignment, quality=form)
        assert quality.shape == probs.shape[:3]
        assert (quality >= 0).all()
    assert (query_quality(probs, boxes, gt_boxes, assignment) <= 1).all()


def test_equals_known_limit(draw):
    """gamma 1 is the score alone, gamma 0 the IoU alone; perfect boxes have IoU 1."""
    probs, boxes, gt_boxes, assignment = case(draw, stages=1, objects=(12,))
    scores = query_quality(probs, boxes, gt_boxes, assignment, gamma=1.0)
    assert_close(scores, probs.amax(-1))
    perfect = gt_boxes[0][assignment[0, 0]][None, None]
    assert_close(query_quality(probs, perfect, gt_boxes, assignment), probs.amax(-1).sqrt())
    ious = query_quality(probs, perfect, gt_boxes, assignment, gamma=0.0)
    assert_close(ious, torch.ones_like(ious))


@pytest.mark.parametrize('form', ['matched_iou', 'max_iou'])
def test_batch_equals_single(draw, form):
    probs, boxes, gt_boxes, assignment = case(draw)
    batch = query_quality(probs, boxes, gt_boxes, assignment, quality=form, topk=5)
    for b in range(3):
        one = slice(b, b + 1)
        single = query_quality(
            probs[:, one], boxes[:, one], gt_boxes[one], assignment[:, one], quality=form, topk=5
        )
        assert_close(batch[:, one], single)


def test_no_objects(draw):
    """Without objects the score alone counts: c_i, to the power of one."""
    probs, boxes, gt_boxes, assignment = case(draw, objects=(0, 0))
    quality = query_quality(probs, boxes, gt_boxes, assignment)
    assert_close(quality, probs.amax(-1))
    quality = query_quality(probs, boxes, gt_boxes, quality='max_iou', topk=10**6)
    assert_close(quality, probs.sum(-1))


@pytest.mark.parametrize('form', ['matched_iou', 'max_iou'])
def test_more_objects_than_queries(draw, form):
    probs, boxes, gt_boxes, assignment = case(draw, queries=3, objects=(9, 5, 0))
    quality = query_quality(probs, boxes, gt_boxes, assignment, quality=form)
    expected = query_quality_reference(probs, boxes, gt_boxes, assignment, quality=form)
    assert_close(quality, expected)


def test_teacher_gets_no_gradient(draw):
    probs, boxes, gt_boxes, assignment = case(draw)
    probs.requires_grad_()
    boxes.requires_grad_()
    for form in ('matched_iou', 'max_iou'):
        quality = query_quality(probs, boxes, gt_boxes, assignment, quality=form)
        assert not quality.requires_grad


@pytest.mark.parametrize('form', ['matched_iou', 'max_iou'])
def test_numeric_stability(draw, form):
    # Scores of 0 and 1 (logits -+100), disjoint boxes, boxes without area.
    probs = torch.tensor([[0.0], [1.0], [0.0], [1.0]])[None, None]
    boxes = torch.tensor([BOX, [0.9, 0.9, 0.1, 0.1], BOX, [0.5, 0.5, 0.0, 0.0]])[None, None]
    gt_boxes = [torch.tensor([BOX, [0.5, 0.5, 0.0, 0.0]])]
    assignment = torch.tensor([[[0, 0, 1, 1]]])
    for gamma in (0.0, 0.5, 1.0):
        quality = query_quality(probs, boxes, gt_boxes, assignment, quality=form, gamma=gamma)
        assert quality.isfinite().all()


def test_convention_gamma_is_the_exponent_of_the_score():
    # 0.5^0.25 * 0.25^0.75 = 2^-1.75; the other way round 2^-1.25.
    quality = query_quality(
        *one_image([[0.5]], [QUARTER]), [f64([BOX])], torch.tensor([[[0]]]), gamma=0.25
    )
    assert_close(quality, f64([[[2**-1.75]]]))


def test_convention_boxes_are_cxcywh():
    # Touching boxes of width 0.2, height 0.4; with w and h swapped IoU would be 1 / 3.
    arguments = (
        *one_image([[1.0]], [[0.3, 0.5, 0.2, 0.4]]), [f64([[0.5, 0.5, 0.2, 0.4]])],
        torch.tensor([[[0]]]),
    )  # fmt: skip
    assert_close(query_quality(*arguments), f64([[[0.0]]]))
    assert_close(query_quality(*arguments, quality='max_iou'), f64([[[0.0]]]))


def test_convention_assignment_is_an_index_into_the_objects():
    # IoU 1 with object 1, 0.25 with object 0; the assignment decides, not the best.
    gt_boxes = [f64([QUARTER, BOX])]
    for index, iou in ((0, 0.25), (1, 1.0)):
        quality = query_quality(
            *one_image([[1.0]], [BOX]), gt_boxes, torch.tensor([[[index]]]), gamma=0.0
        )
        assert_close(quality, f64([[[iou]]]))
    # The released form is class-agnostic and takes the best.
    quality = query_quality(*one_image([[1.0]], [BOX]), gt_boxes, quality='max_iou')
    assert_close(quality, f64([[[1.0]]]))


def test_convention_topk_counts_scores_of_an_image():
    # The 2 best of 4 scores are both of query 0: query 1 has no weight.
    probs, boxes = one_image([[0.9, 0.8], [0.7, 0.6]], [BOX, BOX])
    quality = query_quality(probs, boxes, [f64([BOX])], quality='max_iou', topk=2)
    assert_close(quality, f64([[[1.7, 0.0]]]))
    # Per image and stage, not over the batch: the other image keeps its own two.
    probs = torch.cat([probs, probs / 10], dim=1).repeat(2, 1, 1, 1)
    quality = query_quality(
        probs, boxes.expand(2, 2, 2, 4), [f64([BOX])] * 2, quality='max_iou', topk=2
    )
    assert_close(quality, f64([[[1.7, 0.0], [0.17, 0.0]]] * 2))


def test_convention_negative_index_is_no_object():
    # -1 must not be read as the last object.
    quality = query_quality(
        *one_image([[1.0]], [BOX]), [f64([QUARTER, BOX])], torch.tensor([[[-1]]])
    )
    assert_close(quality, f64([[[0.0]]]))


def test_matched_iou_without_assignment_is_an_error(draw):
    probs, boxes, gt_boxes, _ = case(draw)
    with pytest.raises(ValueError, match='assignment'):
        query_quality(probs, boxes, gt_boxes, None)


def test_unknown_option_is_an_error(draw):
    with pytest.raises(ValueError, match='nonsense'):
        query_quality(*case(draw), quality='nonsense')


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'gamma': 0.2},
        {'gamma': 0.9},
        {'quality': 'max_iou'},
        {'quality': 'max_iou', 'topk': 1},
        {'quality': 'max_iou', 'topk': 17},
        {'quality': 'max_iou', 'topk': 10**6},
    ],
    ids=str,
)
@pytest.mark.parametrize('queries', [20, 33])
def test_equals_reference(draw, options, queries):
    arguments = case(draw, queries=queries, objects=(3, 0, 5))
    expected = query_quality_reference(*arguments, **options)
    assert_close(query_quality(*arguments, **options), expected, rtol=1e-5, atol=1e-5)

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from mmdet_detrdistill.functional.assign_kd import SetCriterion, assign_kd
from tests.functional.cases import Recorder, f64
from tests.reference import assign_kd_reference

FOCAL = {'criterion': SetCriterion()}
BACKGROUND_WEIGHT = 0.1


def softmax_loss(logits, labels, iou):
    """DETR's: cross entropy over K + 1 classes, the last with a small weight."""
    class_weight = torch.ones_like(logits[0])
    class_weight[-1] = BACKGROUND_WEIGHT
    return F.cross_entropy(logits, labels, class_weight, reduction='none')


# `num_classes` because a softmax head has one channel more.
SOFTMAX = {
    'criterion': SetCriterion(cls=softmax_loss, background_weight=BACKGROUND_WEIGHT),
    'num_classes': 3,
}
KINDS = [pytest.param('sigmoid', FOCAL, id='focal'), pytest.param('softmax', SOFTMAX, id='softmax')]


def total(terms):
    return sum(terms.values())


def hand_case():
    """Two queries, the first with the only object."""
    return SimpleNamespace(
        student_logits=f64([[[[0.0], [0.0]]]]),
        student_boxes=f64([[[[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.1, 0.1]]]]),
        assignment=torch.tensor([[[0, -1]]]),
        gt_labels=[torch.tensor([0])],
        gt_boxes=[f64([[0.5, 0.5, 0.4, 0.2]])],
    )


def test_value_by_hand():
    # Score 0.5, one positive: 0.25 * 0.5^2 * ln 2 for it, 0.75 * 0.5^2 * ln 2 for the other,
    # together 0.25 ln 2, times 2, over 1 positive.
    # L1 0.2 + 0.2, times 5. inter 0.04, union 0.12, hull 0.16: GIoU 1 / 12, times 2.
    expected = {
        'cls': f64(0.5 * math.log(2)),
        'bbox': f64(5 * 0.4),
        'iou': f64(2 * 11 / 12),
    }
    assert_close(assign_kd(**vars(hand_case())), expected)


@pytest.mark.parametrize('activation, options', KINDS)
def test_zero_at_equality(draw, activation, options):
    """Boxes equal to the assigned objects: no box loss."""
    case = draw.assign_case(student_stages=1, teacher_stages=1, activation=activation)
    for b, gt_boxes in enumerate(case.gt_boxes):
        found = case.assignment[0, b] >= 0
        case.student_boxes.data[0, b, found] = gt_boxes[case.assignment[0, b, found]]
    terms = assign_kd(**vars(case), **options)
    assert_close([terms['bbox'], terms['iou']], [f64(0.0), f64(0.0)])
    assert terms['cls'] > 0


@pytest.mark.parametrize('activation, options', KINDS)
@pytest.mark.parametrize('seed', range(3))
def test_non_negative(draw, activation, options, seed):
    draw.generator.manual_seed(seed)
    terms = assign_kd(**vars(draw.assign_case(activation=activation)), **options)
    assert set(terms) == {'cls', 'bbox', 'iou'}
    assert all(value > 0 and value.shape == () for value in terms.values())


def mmdet_head(kind):
    heads = pytest.importorskip('mmdet.models.dense_heads')
    if kind == 'softmax':
        # Given, since the head writes into its default.
        loss = {'type': 'CrossEntropyLoss', 'class_weight': 1.0, 'bg_cls_weight': BACKGROUND_WEIGHT}
        return heads.DETRHead(num_classes=3, embed_dims=8, loss_cls=loss)
    if kind == 'focal':
        loss = {'type': 'FocalLoss', 'use_sigmoid': True, 'loss_weight': 2.0}
        return heads.ConditionalDETRHead(num_classes=3, embed_dims=8, loss_cls=loss)
    loss = {'type': 'QualityFocalLoss', 'use_sigmoid': True, 'loss_weight': 1.0}
    return heads.DETRHead(num_classes=3, embed_dims=8, loss_cls=loss)


@pytest.mark.parametrize('kind', ['softmax', 'focal', 'quality_focal'])
def test_equals_known_limit(draw, kind):
    """Under the head's own assignment this is MMDetection's own `loss_by_feat`."""
    head = mmdet_head(kind)
    from mmengine.structures import InstanceData

    case = draw.assign_case(activation='softmax' if kind == 'softmax' else 'sigmoid')
    sizes = [(96, 128), (100, 64), (128, 128)]
    metas = [{'img_shape': size} for size in sizes]
    truth = []
    for (height, width), labels, boxes in zip(sizes, case.gt_labels, case.gt_boxes):
        factor = f64([width, height, width, height])
        truth.append(InstanceData(bboxes=corners(boxes) * factor, labels=labels))
    for s in range(3):
        for b, (height, width) in enumerate(sizes):
            factor = f64([width, height, width, height])
            predictions = InstanceData(
                bboxes=corners(case.student_boxes[s, b].detach()) * factor,
                scores=case.student_logits[s, b].detach(),
            )
            found = head.assigner.assign(predictions, truth[b], img_meta=metas[b])
            case.assignment[s, b] = found.gt_inds - 1
    expected = head.loss_by_feat(case.student_logits, case.student_boxes, truth, metas)

    def loss_cls(logits, labels, iou):
        target = (labels, iou()) if kind == 'quality_focal' else labels
        values = head.loss_cls(logits, target, reduction_override='none')
        return values if values.dim() == 1 else values.sum(1)

    criterion = SetCriterion(
        loss_cls,
        lambda boxes, target_boxes: head.loss_bbox(
            boxes, target_boxes, reduction_override='none'
        ).sum(1),
        lambda boxes, target_boxes: head.loss_iou(boxes, target_boxes, reduction_override='none'),
        float(head.bg_cls_weight),
    )
    terms = assign_kd(
        **vars(case), criterion=criterion, num_classes=3, image_sizes=torch.tensor(sizes)
    )
    for name, value in terms.items():
        stages = [loss for key, loss in expected.items() if key.endswith(f'loss_{name}')]
        assert len(stages) == 3
        assert_close(value, sum(stages))


def corners(boxes):
    return torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=-1)


@pytest.mark.parametrize('activation, options', KINDS)
def test_permutation_of_student_queries(draw, activation, options):
    """The injected queries may come in any order, with their assignment."""
    case = draw.assign_case(activation=activation)
    expected = assign_kd(**vars(case), **options)
    order = draw.permutation(8)
    for name in ('student_logits', 'student_boxes', 'assignment'):
        setattr(case, name, getattr(case, name)[:, :, order])
    assert_close(assign_kd(**vars(case), **options), expected)


@pytest.mark.parametrize('activation, options', KINDS)
def test_batch_equals_single(draw, activation, options):
    # Equal counts of objects per image, so the batch is the mean of its images.
    case = draw.assign_case(objects=(2, 2, 2), activation=activation)
    singles = []
    for b in range(3):
        one = {k: v[b : b + 1] if k[:2] == 'gt' else v[:, b : b + 1] for k, v in vars(case).items()}
        singles.append(assign_kd(**one, **options))
    for name, value in assign_kd(**vars(case), **options).items():
        assert_close(value, torch.stack([single[name] for single in singles]).mean())


@pytest.mark.parametrize('activation, options', KINDS)
def test_no_objects(draw, activation, options):
    """All queries are background; the normaliser does not fall below 1."""
    case = draw.assign_case(student_stages=1, objects=(0, 0), activation=activation)
    terms = assign_kd(**vars(case), **options)
    assert_close([terms['bbox'], terms['iou']], [f64(0.0), f64(0.0)])
    assert_close(terms['cls'], assign_kd_reference(**vars(case), **reference(options))['cls'])
    if activation == 'sigmoid':
        p = case.student_logits.sigmoid()
        assert_close(terms['cls'], (2 * 0.75 * p**2 * -torch.log(1 - p)).sum())
    total(terms).backward()
    assert (case.student_logits.grad.abs().sum(-1) > 0).all()
    assert case.student_boxes.grad is None or not case.student_boxes.grad.any()


@pytest.mark.parametrize('activation, options', KINDS)
def test_more_objects_than_queries(draw, activation, options):
    case = draw.assign_case(queries=3, objects=(9, 4), activation=activation)
    assert (case.assignment >= 0).all()
    check_against_reference(case, options)


@pytest.mark.parametrize('activation, options', KINDS)
def test_gradcheck(draw, activation, options):
    case = draw.assign_case(
        student_stages=1, teacher_stages=2, queries=4, objects=(2, 0), activation=activation
    )
    fixed = case.assignment, case.gt_labels, case.gt_boxes

    def loss(logits, boxes):
        return tuple(assign_kd(logits, boxes, *fixed, **options).values())

    assert torch.autograd.gradcheck(loss, (case.student_logits, case.student_boxes))


def test_teacher_gets_no_gradient(draw):
    """What comes from the teacher is an index; the quality handed to the criterion is fixed."""
    case, recorder = draw.assign_case(), Recorder()
    assign_kd(**vars(case), criterion=recorder.criterion)
    ((_, labels, iou),) = recorder.cls
    assert not (labels.requires_grad or iou.requires_grad)
    total(assign_kd(**vars(case))).backward()
    assert (case.student_logits.grad.abs().sum(-1) > 0).all()
    touched = case.student_boxes.grad.abs().sum(-1) > 0
    assert_close(touched, case.assignment >= 0)


@pytest.mark.parametrize('activation, options', KINDS)
def test_numeric_stability(draw, activation, options):
    draw.dtype = torch.float32
    case = draw.assign_case(activation=activation)
    case.student_logits.data = case.student_logits.data.sign() * 100
    case.student_boxes.data[..., 2:] = 0.0
    case.gt_boxes[0][:, 2:] = 0.0
    terms = assign_kd(**vars(case), **options)
    assert all(value.isfinite() for value in terms.values())
    total(terms).backward()
    assert case.student_logits.grad.isfinite().all()
    assert case.student_boxes.grad.isfinite().all()


# ------------------------------------------------------------------------------ reference


def reference(options):
    """Options of `assign_kd` -> of its reference."""
    result = {k: v for k, v in options.items() if k not in ('criterion', 'num_classes')}
    if 'num_classes' in options:
        softmax = {'activation': 'softmax', 'background_weight': BACKGROUND_WEIGHT}
        result.update(softmax, cls_weight=1.0)
    return result


@pytest.mark.parametrize('activation, options', KINDS)
@pytest.mark.parametrize(
    'switch',
    [
        {},
        {'pairing': 'last'},
        {'pairing': 'uniform'},
        {'image_sizes': torch.tensor([[96, 128], [100, 64], [128, 128]])},
        {'reduce': lambda count: count * 1.5 + 1},
    ],
    ids=lambda switch: '-'.join(switch) or 'default',
)
def test_equals_reference(draw, activation, options, switch):
    case = draw.assign_case(student_stages=2, teacher_stages=4, activation=activation)
    check_against_reference(case, {**options, **switch})


@pytest.mark.parametrize('activation, options', KINDS)
@pytest.mark.parametrize('student_stages, teacher_stages', [(3, 6), (6, 3), (2, 6), (6, 2), (1, 1)])
def test_equals_reference_for_stages(draw, activation, options, student_stages, teacher_stages):
    case = draw.assign_case(
        student_stages=student_stages, teacher_stages=teacher_stages, activation=activation
    )
    check_against_reference(case, options)


@pytest.mark.parametrize('activation, options', KINDS)
@pytest.mark.parametrize('queries', [20, 33])
def test_equals_reference_for_query_counts(draw, activation, options, queries):
    check_against_reference(draw.assign_case(queries=queries, activation=activation), options)


@pytest.mark.parametrize('activation, options', KINDS)
def test_equals_reference_with_mask(draw, activation, options):
    case = draw.assign_case(queries=12, activation=activation)
    mask = draw.uniform(*case.student_logits.shape[:3]) < 0.6
    check_against_reference(case, {**options, 'query_mask': mask})
    case.assignment[:, :, ::3] = -2
    check_against_reference(case, {**options, 'query_mask': mask})


def check_against_reference(case, options):
    """Values and the student's gradients."""
    student = case.student_logits, case.student_boxes
    terms = assign_kd(**vars(case), **options)
    expected = assign_kd_reference(**vars(case), **reference(options))
    assert_close(terms, expected, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(total(terms), student)
    assert_close(gradients, torch.autograd.grad(total(expected), student), rtol=1e-5, atol=1e-5)

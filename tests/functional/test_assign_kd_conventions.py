"""What `assign_kd` promises about indices, formats, units, denominators."""

import pytest
import torch
from torch.testing import assert_close

from mmdet_detrdistill.functional.assign_kd import assign_kd
from tests.functional.cases import Recorder, f64
from tests.functional.test_assign_kd import KINDS, hand_case, total


def test_convention_minus_one_is_background():
    case, recorder = hand_case(), Recorder()
    assign_kd(**vars(case), criterion=recorder.criterion)
    ((logits, labels, iou),) = recorder.cls
    assert logits.shape == (2, 1)
    assert labels.tolist() == [0, 1]  # K = 1 classes: background is 1
    assert_close(iou, f64([1 / 3, 0.0]))


def test_convention_assignment_is_an_index_into_the_objects_of_the_image():
    # Image 0 has objects of classes 2 and 1, image 1 of class 0; neither -1 nor the wrong
    # image may be read.
    recorder = Recorder()
    assign_kd(
        torch.zeros(1, 2, 3, 3), torch.full((1, 2, 3, 4), 0.5),
        torch.tensor([[[1, -1, 0], [-1, 0, -1]]]),
        [torch.tensor([2, 1]), torch.tensor([0])],
        [torch.tensor([[0.2] * 4, [0.1] * 4]), torch.tensor([[0.3] * 4])],
        criterion=recorder.criterion,
    )  # fmt: skip
    assert recorder.cls[0][1].tolist() == [1, 3, 2, 3, 0, 3]
    _, target_boxes = recorder.bbox[0]
    assert_close(target_boxes[::2, 0], torch.tensor([0.1, 0.2, 0.3]))  # others count nothing


def test_convention_softmax_background_is_num_classes(draw):
    case, recorder = draw.assign_case(activation='softmax'), Recorder()
    assign_kd(**vars(case), criterion=recorder.criterion, num_classes=3)
    labels = torch.stack([call[1] for call in recorder.cls]).view_as(case.assignment)
    assert_close(labels == 3, case.assignment == -1)


def test_convention_bbox_gets_cxcywh_and_iou_corners_in_pixels():
    # Image of height 100, width 200; box centre (0.5, 0.5), w 0.2, h 0.4.
    for image_sizes, scale in ((torch.tensor([[100, 200]]), [200, 100]), (None, [1, 1])):
        recorder = Recorder()
        assign_kd(**vars(hand_case()), criterion=recorder.criterion, image_sizes=image_sizes)
        boxes, target_boxes = recorder.bbox[0]
        assert_close(boxes[0], f64([0.5, 0.5, 0.2, 0.4]))
        assert_close(target_boxes[0], f64([0.5, 0.5, 0.4, 0.2]))
        boxes, target_boxes = recorder.iou[0]
        factor = f64([*scale, *scale])
        assert_close(boxes[0], f64([0.4, 0.3, 0.6, 0.7]) * factor)
        assert_close(target_boxes[0], f64([0.3, 0.4, 0.7, 0.6]) * factor)


def test_convention_boxes_are_cxcywh():
    # Touching boxes of width 0.2, height 0.4: GIoU 0. With w and h swapped it would be 1 / 3.
    case = hand_case()
    case.student_boxes[0, 0, 0] = f64([0.3, 0.5, 0.2, 0.4])
    case.gt_boxes = [f64([[0.5, 0.5, 0.2, 0.4]])]
    terms = assign_kd(**vars(case))
    assert_close(terms['iou'], f64(2.0))
    assert_close(terms['bbox'], f64(5 * 0.2))


@pytest.mark.parametrize('activation, options', KINDS)
def test_convention_query_mask_true_is_kept(draw, activation, options):
    case = draw.assign_case(activation=activation)
    mask = torch.tensor([True, True, False, True, False, True, True, True])
    query_mask = mask.expand(3, 3, 8)
    terms = assign_kd(**vars(case), **options, query_mask=query_mask)
    rest = {
        name: value if name[:2] == 'gt' else value[:, :, mask] for name, value in vars(case).items()
    }
    assert_close(terms, assign_kd(**rest, **options))
    total(terms).backward()
    assert not case.student_logits.grad[:, :, ~mask].any()
    assert not case.student_boxes.grad[:, :, ~mask].any()


@pytest.mark.parametrize('activation, options', KINDS)
def test_convention_minus_two_takes_no_part(draw, activation, options):
    case = draw.assign_case(activation=activation)
    mask = torch.tensor([True, True, False, True, False, True, True, True])
    expected = assign_kd(**vars(case), **options, query_mask=mask.expand(3, 3, 8))
    case.assignment = case.assignment.masked_fill(~mask, -2)
    assert_close(assign_kd(**vars(case), **options), expected)


def test_convention_denominators():
    # 2 images with 3 and 1 objects, 6 queries each: 4 positives, 8 negatives.
    assignment = torch.tensor([[[0, 1, 2, -1, -1, -1], [-1, 0, -1, -1, -1, -1]]])
    inputs = (
        torch.zeros(1, 2, 6, 2), torch.full((1, 2, 6, 4), 0.5), assignment,
        [torch.zeros(3, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)],
        [torch.full((3, 4), 0.5), torch.full((1, 4), 0.5)],
    )  # fmt: skip
    seen = []

    def reduce(counts):
        seen.append(counts)
        return counts * 2

    for weight in (0.0, 0.5):
        criterion = Recorder(weight).criterion  # every query costs 1
        for times, options in ((1, {}), (2, dict(reduce=reduce))):
            expected = dict(cls=12 / (4 + 8 * weight) / times, bbox=1 / times, iou=1 / times)
            terms = assign_kd(*inputs, criterion=criterion, **options)
            assert {name: float(value) for name, value in terms.items()} == expected
    assert len(seen) == 2  # processes talk to each other once, not once per stage


def test_convention_normalisers_are_at_least_one():
    # 4 background queries of weight 0.1 count 0.4, which would make the loss 2.5 times as large.
    inputs = (
        torch.zeros(1, 1, 4, 2), torch.full((1, 1, 4, 4), 0.5), torch.full((1, 1, 4), -1),
        [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, 4)],
    )  # fmt: skip
    terms = assign_kd(*inputs, criterion=Recorder(0.1).criterion)
    assert {name: float(value) for name, value in terms.items()} == dict(cls=4, bbox=0, iou=0)


def test_convention_stages_are_summed_and_groups_averaged(draw):
    case = draw.assign_case(student_stages=2, teacher_stages=4)

    def one(s, t):
        stage = {
            name: getattr(case, name)[s : s + 1] for name in ('student_logits', 'student_boxes')
        }
        truth = {'gt_labels': case.gt_labels, 'gt_boxes': case.gt_boxes}
        return assign_kd(**stage, assignment=case.assignment[t : t + 1], **truth)

    for name, value in assign_kd(**vars(case)).items():
        first, second = one(0, 0)[name] + one(0, 1)[name], one(1, 2)[name] + one(1, 3)[name]
        assert_close(value, (first + second) / 2)
    for name, value in assign_kd(**vars(case), pairing='last').items():
        assert_close(value, one(0, 3)[name] + one(1, 3)[name])
    for name, value in assign_kd(**vars(case), pairing='uniform').items():
        assert_close(value, one(0, 1)[name] + one(1, 3)[name])


def test_unknown_option_is_an_error(draw):
    with pytest.raises(ValueError, match='nonsense'):
        assign_kd(**vars(draw.assign_case()), pairing='nonsense')

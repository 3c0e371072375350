"""What `feature_kd` promises about masks, denominators, sums and means."""

import pytest
import torch
from torch.testing import assert_close

from mmdet_detrdistill.functional.feature_kd import MaskOptions, object_masks
from tests.functional.cases import f64, feature_kd
from tests.functional.test_feature_kd import EVERY_FORM, image, one_query, pixels, quality
from tests.reference_terms import corners, iou_and_giou


@pytest.mark.parametrize('options', EVERY_FORM)
def test_convention_valid_mask_true_is_kept(draw, options):
    # One image whose last column is padding = the image without that column.
    case = draw.feature_case(sizes=((4, 5),), images=1, padded=(0.2,))
    expected = feature_kd(
        [feat[..., :4] for feat in case.student_feats],
        [feat[..., :4] for feat in case.teacher_feats],
        case.teacher_queries,
        case.quality,
        **options,
    )
    assert_close(feature_kd(**vars(case), **options), expected)


@pytest.mark.parametrize('options', EVERY_FORM)
def test_convention_padding_does_not_matter(draw, options):
    case = draw.feature_case()
    expected = feature_kd(**vars(case), **options)
    for level, mask in enumerate(case.valid_masks):
        padding = ~mask[:, None]
        case.student_feats[level].data.masked_fill_(padding, 7.0)
        # Large where the mask would be largest.
        case.teacher_feats[level].masked_fill_(padding, 50.0)
    loss = feature_kd(**vars(case), **options)
    assert_close(loss, expected)
    loss.backward()
    for feat, mask in zip(case.student_feats, case.valid_masks):
        assert not feat.grad.masked_select(~mask[:, None]).any()


@pytest.mark.parametrize('options', EVERY_FORM)
def test_convention_image_without_valid_pixel_adds_nothing(draw, options):
    case = draw.feature_case(padded=(0.0, 0.3, 1.0))
    expected = sum(feature_kd(**image(case, b), **options) for b in range(2)) / 3
    loss = feature_kd(**vars(case), **options)
    assert_close(loss, expected)
    loss.backward()
    assert all(feat.grad.isfinite().all() for feat in case.student_feats)


@pytest.mark.parametrize('options', EVERY_FORM)
def test_convention_no_mask_is_a_full_mask(draw, options):
    case = draw.feature_case(padded=(0.0, 0.0, 0.0))
    expected = feature_kd(**vars(case), **options)
    case.valid_masks = None
    assert_close(feature_kd(**vars(case), **options), expected)


def test_convention_denominators():
    # psi = 1, error d = 4 per pixel: 1 whatever the number of queries, channels and pixels.
    for num_queries in (1, 3):
        for channels in (2, 4):
            for width in (1, 5):
                teacher = [torch.ones(1, channels, 2, width).double()]
                student = [torch.zeros_like(teacher[0])]
                queries = torch.zeros(1, 1, num_queries, channels).double()
                queries[..., 0] = 1.0
                loss = feature_kd(student, teacher, queries, quality(*[1.0] * num_queries))
                assert_close(loss, f64(1.0))


@pytest.mark.parametrize('options', EVERY_FORM)
def test_convention_levels_are_summed(draw, options):
    case = draw.feature_case()
    singles = [
        feature_kd(
            case.student_feats[i : i + 1],
            case.teacher_feats[i : i + 1],
            case.teacher_queries,
            case.quality,
            case.valid_masks[i : i + 1],
            **options,
        )
        for i in range(2)
    ]
    assert_close(feature_kd(**vars(case), **options), sum(singles))


@pytest.mark.parametrize('options', EVERY_FORM)
def test_convention_stages_are_summed(draw, options):
    case = draw.feature_case(stages=3)
    feats = case.student_feats, case.teacher_feats
    singles = [
        feature_kd(
            *feats,
            case.teacher_queries[s : s + 1],
            case.quality[s : s + 1],
            case.valid_masks,
            **options,
        )
        for s in range(3)
    ]
    assert_close(feature_kd(**vars(case), **options), sum(singles))


def test_convention_masks_look_at_the_teacher():
    # The query sees the teacher's pixel (psi = 2), not the student's (psi = 0): 4 * 5 / 2.
    loss = feature_kd(pixels([0.0, 1.0]), pixels([2.0, 0.0]), one_query([1.0, 0.0]), quality(1.0))
    assert_close(loss, f64(10.0))


def test_convention_cosine_ignores_lengths(draw):
    case = draw.feature_case()
    for mask in ('per_query', 'summed'):
        expected = feature_kd(**vars(case), mask=mask, similarity='cosine')
        scaled = {**vars(case), 'teacher_queries': case.teacher_queries * 10}
        assert_close(feature_kd(**scaled, mask=mask, similarity='cosine'), expected)
        other = feature_kd(**scaled, mask='per_query', similarity='dot')
        assert_close(other, 100 * feature_kd(**vars(case)))


@pytest.mark.parametrize('option', ['mask', 'similarity'])
def test_unknown_option_is_an_error(draw, option):
    with pytest.raises(ValueError, match='nonsense'):
        feature_kd(**vars(draw.feature_case()), **{option: 'nonsense'})


def test_other_shapes_are_an_error_that_names_the_level(draw):
    case = draw.feature_case()
    case.student_feats[1] = case.student_feats[1][..., :-1]
    with pytest.raises(ValueError, match='level 1'):
        feature_kd(**vars(case))


def test_other_width_of_queries_is_an_error(draw):
    case = draw.feature_case()
    case.teacher_queries = case.teacher_queries[..., :-1]
    with pytest.raises(ValueError):
        feature_kd(**vars(case))


def test_gamma_outside_0_and_1_is_an_error():
    with pytest.raises(ValueError, match='gamma'):
        MaskOptions(gamma=1.5)


def test_convention_normalize_by_hand():
    # Masks 1 and 4 of mean 2.5 on pixels (1, 0) and (0, 2), mean square (1 + 4) / 4 = 1.25.
    # Errors 1 / 2 and 4 / 2: (1 * 0.5 + 4 * 2) / 2 / 2.5 / 1.25.
    teacher, student = pixels([1.0, 0.0], [0.0, 2.0]), pixels([0.0, 0.0], [0.0, 0.0])
    loss = feature_kd(student, teacher, one_query([1.0, 1.0]), quality(0.5), normalize=True)
    assert_close(loss, f64(4.25 / 2.5 / 1.25))


@pytest.mark.parametrize('options', EVERY_FORM)
def test_convention_normalized_size_is_that_of_the_error_alone(draw, options):
    """Neither more queries nor larger features change it, and each image counts by itself."""
    case = draw.feature_case(stages=1)
    expected = feature_kd(**vars(case), **options, normalize=True)
    singles = [feature_kd(**image(case, b), **options, normalize=True) for b in range(3)]
    assert_close(expected, torch.stack(singles).mean())
    more = {**vars(case), 'teacher_queries': torch.cat([case.teacher_queries] * 3, 2)}
    if options['mask'] == 'per_query':  # the clamp at 0.01 depends on the sum
        more['quality'] = torch.cat([case.quality, 0 * case.quality, 0 * case.quality], 2)
        assert_close(feature_kd(**more, **options, normalize=True), expected)
        case.quality *= 0.1
        assert_close(feature_kd(**vars(case), **options, normalize=True), expected)
        case.student_feats = [5 * feat for feat in case.student_feats]
        case.teacher_feats = [5 * feat for feat in case.teacher_feats]
        assert_close(feature_kd(**vars(case), **options, normalize=True), expected)


@pytest.mark.parametrize('options', EVERY_FORM)
def test_normalized_by_nothing_is_nothing(draw, options):
    case = draw.feature_case()
    case.quality[:] = 0.0
    case.teacher_feats = [0 * feat for feat in case.teacher_feats]
    loss = feature_kd(**vars(case), **options, normalize=True)
    loss.backward()
    assert loss.isfinite() and all(feat.grad.isfinite().all() for feat in case.student_feats)


def test_object_masks_by_hand():
    # On a map 2 x 4: x from 0.3 to 0.6 touches columns 1 and 2, y from 0.5 on row 1 alone.
    # An object smaller than a pixel still has the pixel that it is in.
    gt_boxes = [f64([[0.45, 0.75, 0.3, 0.5]]), f64([[0.9, 0.1, 0.01, 0.01], [0.1, 0.6, 0.1, 0.1]])]
    (mask,) = object_masks(gt_boxes, [(2, 4)])
    assert_close(mask, f64([[[0, 0, 0, 0], [0, 1, 1, 0]], [[0, 0, 0, 1], [1, 0, 0, 0]]]))


def test_object_masks_of_no_object_are_empty(draw):
    masks = object_masks([draw.boxes(0), draw.boxes(0)], [(3, 5), (2, 3)])
    assert [tuple(mask.shape) for mask in masks] == [(2, 3, 5), (2, 2, 3)]
    assert not any(mask.any() for mask in masks)


def test_object_masks_equal_reference(draw):
    """Pixel by pixel: whether its cell and some object share an area."""
    gt_boxes, size = [draw.boxes(4), draw.boxes(0), draw.boxes(1)], (5, 7)
    (found,) = object_masks(gt_boxes, [size])
    for image_boxes, mask in zip(gt_boxes, found):
        for row in range(size[0]):
            for column in range(size[1]):
                cell = column / 7, row / 5, (column + 1) / 7, (row + 1) / 5
                shared = any(
                    iou_and_giou(cell, corners(box))[0] > 0 for box in image_boxes.tolist()
                )
                assert bool(mask[row, column]) == shared

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from tests.allocation import largest_storage
from tests.functional.cases import f64, feature_kd
from tests.reference import feature_kd_reference

PAPER = {'mask': 'per_query', 'similarity': 'dot'}
RELEASED = {'mask': 'summed', 'similarity': 'cosine'}
PRESETS = [pytest.param(PAPER, id='paper'), pytest.param(RELEASED, id='released')]
EVERY_FORM = [
    pytest.param({'mask': mask, 'similarity': similarity}, id=f'{mask}-{similarity}')
    for mask in ('per_query', 'summed')
    for similarity in ('dot', 'cosine')
]


def pixels(*values):
    """Feature vectors of a row of pixels -> one level (1, C, 1, W)."""
    return [f64(values).T[None, :, None]]


def one_query(vector):
    """-> (1, 1, 1, C)."""
    return f64(vector)[None, None, None]


def quality(*values):
    """-> (1, 1, N)."""
    return f64(values)[None, None]


def test_value_by_hand():
    # Pixels (1, 0) and (0, 2), query (1, 1): psi = 1 and 2; the student is 0, so the squared
    # errors are 1 and 4. q sum psi^2 error = 0.5 (1 * 1 + 4 * 4) = 8.5; N d n = 1 * 2 * 2.
    teacher, student = pixels([1.0, 0.0], [0.0, 2.0]), pixels([0.0, 0.0], [0.0, 0.0])
    loss = feature_kd(student, teacher, one_query([1.0, 1.0]), quality(0.5))
    assert_close(loss, f64(8.5 / 4))
    # Cosine with (1, 0): 1 and 0, times q = 0.5; clamped: 0.5 and 0.01; over the maximum:
    # m = 1 and 0.02. (m F_T)^2 = 1 and 0.0016; mean over 2 channels and 2 pixels.
    loss = feature_kd(student, teacher, one_query([1.0, 0.0]), quality(0.5), **RELEASED)
    assert_close(loss, f64(1.0016 / 4))


def test_value_by_hand_of_two_queries():
    # psi = 3 and -1 on the only pixel (3, 1, 0, 0), error 9 + 1 = 10.
    # Per query: (0.5 * 9 + 0.25 * 1) * 10 / (N = 2 * d = 4).
    teacher, student = pixels([3.0, 1.0, 0.0, 0.0]), pixels([0.0, 0.0, 0.0, 0.0])
    queries = f64([[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0]])[None, None]
    loss = feature_kd(student, teacher, queries, quality(0.5, 0.25))
    assert_close(loss, f64(4.75 * 10 / 8))


@pytest.mark.parametrize('options', EVERY_FORM)
def test_zero_at_equality(draw, options):
    case = draw.feature_case()
    case.student_feats = [feat.clone().requires_grad_() for feat in case.teacher_feats]
    assert_close(feature_kd(**vars(case), **options), f64(0.0))


@pytest.mark.parametrize('options', EVERY_FORM)
@pytest.mark.parametrize('seed', range(3))
def test_non_negative(draw, options, seed):
    draw.generator.manual_seed(seed)
    assert feature_kd(**vars(draw.feature_case()), **options) > 0


@pytest.mark.parametrize('options', EVERY_FORM)
def test_equals_known_limit(draw, options):
    """A mask that is the same everywhere leaves the plain mean squared error."""
    case = draw.feature_case(stages=1, padded=None)
    case.quality = torch.ones_like(case.quality)
    if options['mask'] == 'summed':
        # Trusting no query: every pixel is clamped to 0.01, the maximum too.
        case.quality = torch.zeros_like(case.quality)
    elif options['similarity'] == 'dot':
        # The first channel is 1 everywhere and all that the queries look at: psi = 1.
        case.teacher_queries = torch.zeros_like(case.teacher_queries)
        case.teacher_queries[..., 0] = 1.0
        for feat in case.teacher_feats:
            feat[:, 0] = 1.0
    else:
        # Every pixel is a multiple of the one direction of all queries: psi = 1.
        case.teacher_queries[:] = 1.0
        case.teacher_feats = [f[:, :1].exp().expand_as(f) for f in case.teacher_feats]
    expected = sum(F.mse_loss(s, t) for s, t in zip(case.student_feats, case.teacher_feats))
    assert_close(feature_kd(**vars(case), **options), expected)


@pytest.mark.parametrize('options', EVERY_FORM)
def test_permutation_of_student_queries(draw, options):
    """The only queries here are the teacher's, and their order does not matter either."""
    case = draw.feature_case()
    expected = feature_kd(**vars(case), **options)
    order = draw.permutation(case.quality.shape[2])
    case.teacher_queries = case.teacher_queries[:, :, order]
    case.quality = case.quality[:, :, order]
    assert_close(feature_kd(**vars(case), **options), expected)


def image(case, b):
    one = slice(b, b + 1)
    return {
        'student_feats': [feat[one] for feat in case.student_feats],
        'teacher_feats': [feat[one] for feat in case.teacher_feats],
        'teacher_queries': case.teacher_queries[:, one],
        'quality': case.quality[:, one],
        'valid_masks': [mask[one] for mask in case.valid_masks],
    }


@pytest.mark.parametrize('options', EVERY_FORM)
def test_batch_equals_single(draw, options):
    case = draw.feature_case()
    singles = [feature_kd(**image(case, b), **options) for b in range(3)]
    assert_close(feature_kd(**vars(case), **options), torch.stack(singles).mean())


@pytest.mark.parametrize('options', EVERY_FORM)
def test_no_objects(draw, options):
    """Queries that no object vouches for: no weight per query, an even mask when summed."""
    case = draw.feature_case(stages=1)
    case.quality[:] = 0.0
    loss = feature_kd(**vars(case), **options)
    if options['mask'] == 'per_query':
        assert_close(loss, f64(0.0))
    else:
        assert_close(loss, masked_mse(case))
    loss.backward()
    assert all(feat.grad.isfinite().all() for feat in case.student_feats)


def masked_mse(case):
    total = 0.0
    for student, teacher, mask in zip(case.student_feats, case.teacher_feats, case.valid_masks):
        for b in range(student.shape[0]):
            total += F.mse_loss(student[b][:, mask[b]], teacher[b][:, mask[b]]) / student.shape[0]
    return total


@pytest.mark.parametrize('options', EVERY_FORM)
def test_more_objects_than_queries(draw, options):
    """A single query serves an image of any content."""
    case = draw.feature_case(queries=1)
    check_against_reference(case, options)


@pytest.mark.parametrize('options', EVERY_FORM)
def test_gradcheck(draw, options):
    case = draw.feature_case(sizes=((2, 3),), channels=3)
    teacher = [case.teacher_feats, case.teacher_queries, case.quality, case.valid_masks]
    assert torch.autograd.gradcheck(
        lambda feat: feature_kd([feat], *teacher, **options), (case.student_feats[0],)
    )


@pytest.mark.parametrize('options', EVERY_FORM)
def test_teacher_gets_no_gradient(draw, options):
    case = draw.feature_case()
    teacher = [*case.teacher_feats, case.teacher_queries, case.quality]
    for tensor in teacher:
        tensor.requires_grad_()
    feature_kd(**vars(case), **options).backward()
    assert all(tensor.grad is None for tensor in teacher)
    assert all(feat.grad.abs().sum() > 0 for feat in case.student_feats)


@pytest.mark.parametrize('options', EVERY_FORM)
@pytest.mark.parametrize('scale', [100.0, 0.0])
def test_numeric_stability(draw, options, scale):
    draw.dtype = torch.float32
    case = draw.feature_case()
    case.teacher_queries = case.teacher_queries.sign() * scale
    case.teacher_feats = [feat.sign() * scale for feat in case.teacher_feats]
    for feat in case.student_feats:
        feat.data = feat.data.sign() * -100
    loss = feature_kd(**vars(case), **options)
    assert loss.isfinite()
    loss.backward()
    assert all(feat.grad.isfinite().all() for feat in case.student_feats)


def test_masks_carry_no_gradient(draw):
    # d/dF_S of the mean of (m F_T - m F_S)^2 with m fixed is -2 m^2 (F_T - F_S) / count.
    teacher = pixels([1.0, 0.0], [0.0, 2.0])
    student = [torch.zeros_like(teacher[0]).requires_grad_()]
    feature_kd(student, teacher, one_query([1.0, 0.0]), quality(0.5), **RELEASED).backward()
    expected = -2 * f64([1.0, 0.02]) ** 2 * teacher[0] / 4
    assert_close(student[0].grad, expected)


# --------------------------------------------------------------------------------- memory


@pytest.mark.parametrize('options', EVERY_FORM)
def test_memory_does_not_grow_with_queries(draw, options):
    draw.dtype = torch.float32
    images, channels, size = 2, 8, 40
    sizes = []
    for queries in (100, 300, 900):
        case = draw.feature_case(
            stages=1, queries=queries, channels=channels, sizes=((size, size),), images=images,
            padded=(0.0, 0.3),
        )  # fmt: skip
        largest = largest_storage(lambda: feature_kd(**vars(case), **options))  # noqa: B023
        assert largest < 4 * images * queries * size * size
        sizes.append(largest)
    assert sizes[0] == sizes[1] == sizes[2]
    assert sizes[0] <= 4 * images * channels * size * size


# ------------------------------------------------------------------------------ reference


@pytest.mark.parametrize('options', EVERY_FORM)
@pytest.mark.parametrize('padded', [None, (0.0, 0.3, 0.6), (0.0, 0.5, 1.0)], ids=str)
@pytest.mark.parametrize('queries', [20, 33])
def test_equals_reference(draw, options, padded, queries):
    check_against_reference(draw.feature_case(padded=padded, queries=queries), options)


@pytest.mark.parametrize('options', PRESETS)
@pytest.mark.parametrize('stages', [1, 6])
@pytest.mark.parametrize('channels', [1, 9])
def test_equals_reference_for_sizes(draw, options, stages, channels):
    case = draw.feature_case(
        stages=stages, channels=channels, sizes=((4, 7), (2, 4), (1, 2), (1, 1)), padded=(0, 0.5, 0)
    )
    check_against_reference(case, options)


@pytest.mark.parametrize('options', PRESETS)
def test_equals_reference_with_objectless_images(draw, options):
    case = draw.feature_case()
    case.quality[:, 0, ::2] = 0.0
    case.quality[:, 1] = 0.0
    check_against_reference(case, options)


def check_against_reference(case, options):
    """Values and the student's gradients."""
    loss = feature_kd(**vars(case), **options)
    expected = feature_kd_reference(**vars(case), **options)
    assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert expected > 1e-3
    gradients = torch.autograd.grad(loss, case.student_feats)
    assert_close(gradients, torch.autograd.grad(expected, case.student_feats), rtol=1e-5, atol=1e-5)

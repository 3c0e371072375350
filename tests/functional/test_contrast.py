"""The released code's optional term."""

import math

import torch
from torch.testing import assert_close

from mmdet_detrdistill.functional.logits_kd import contrast


def test_value_by_hand():
    """Unit vectors at right angles, t = 0.5: similarities 2 and 0, so -log(e^2 / (e^2 + 1))."""
    embeds = torch.eye(2, dtype=torch.float64)[None]
    matched = torch.tensor([[1, 0]])
    right = contrast(3 * embeds, embeds.flip(1), matched, temperature=0.5)
    assert_close(right, torch.full((1, 2), math.log1p(math.exp(-2)), dtype=torch.float64))
    wrong = contrast(embeds, embeds, matched, temperature=0.5)
    assert_close(wrong, torch.full((1, 2), math.log1p(math.exp(2)), dtype=torch.float64))


def test_equals_known_limit():
    """Equal teacher embeddings cannot be told apart: log N_t."""
    teacher = torch.ones(1, 5, 3)
    found = contrast(torch.randn(1, 4, 3), teacher, torch.zeros(1, 5, dtype=torch.long))
    assert_close(found, torch.full((1, 5), math.log(5)))


def test_stages_and_images_come_first():
    """(P, B, N, D) gives what each stage and image gives alone."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, n, 4, generator=generator) for n in (5, 6))
    matched = torch.randint(0, 5, (2, 3, 6), generator=generator)
    found = contrast(student, teacher, matched)
    for stage in range(2):
        alone = contrast(student[stage], teacher[stage], matched[stage])
        assert_close(found[stage], alone)


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(1, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(1, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    matched = torch.tensor([[2, 0, 1]])
    assert torch.autograd.gradcheck(lambda s: contrast(s, teacher.detach(), matched), (student,))
    contrast(student, teacher, matched).sum().backward()
    assert teacher.grad is None

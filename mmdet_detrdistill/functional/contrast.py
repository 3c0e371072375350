"""Contrast of matched decoder embeddings, an option of the released code."""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrast(
    student_embeds: Tensor, teacher_embeds: Tensor, matched: Tensor, temperature: float = 0.07
) -> Tensor:
    """How well each matched student query tells its teacher query from the image's others.

    Source: none in the paper; the released code has such a term on by default (weight 0.2,
    temperature 0.07). Cross entropy over cosine similarities / temperature (InfoNCE).

    Args:
        student_embeds: (..., N_s, D).
        teacher_embeds: (..., N_t, D), gets no gradient.
        matched: (..., N_t) int64, student query of each teacher query; -1 entries are meaningless.
        temperature: divides the similarities.

    Returns:
        (..., N_t) >= 0, log N_t when all similarities are equal.
    """
    rows = matched.clamp(min=0).unsqueeze(-1).expand(*matched.shape, student_embeds.shape[-1])
    own = F.normalize(student_embeds.gather(-2, rows), dim=-1)
    others = F.normalize(teacher_embeds.detach(), dim=-1)
    similarity = own @ others.transpose(-1, -2) / temperature
    return -torch.diagonal(similarity.log_softmax(-1), dim1=-2, dim2=-1)

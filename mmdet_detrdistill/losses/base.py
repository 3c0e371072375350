"""What the distillation losses have in common."""

from typing import Any, ClassVar, Dict, Sequence, Tuple

import torch
from mmdet.utils import reduce_mean
from mmengine.dist import get_world_size
from torch import Tensor, nn

from ..detectors import DetectorAdapter


class DistillLoss(nn.Module):
    """A weight and options around a function of `functional`.

    `forward(pair)` takes a `DistillPair` and returns named, weighted 0-d terms; the name '' stands
    for the loss itself.

    Args:
        loss_weight: factor of every term.
        preset: 'paper' or 'released', the source of every option that is None.
        presets: the options of each preset.
        options: what the config gives; None = as the preset has it.

    Raises:
        ValueError: unknown preset or option value, with the valid ones.
    """

    #: whether the loss needs the student's decoder on the teacher's queries
    injects = False
    #: terms that are logged and not added to the loss
    statistics: Tuple[str, ...] = ()
    #: the valid values of string-valued options
    choices: ClassVar[Dict[str, Tuple[str, ...]]] = {}

    def __init__(
        self, loss_weight: float, preset: str, presets: Dict[str, Dict[str, Any]], **options: Any
    ) -> None:
        super().__init__()
        given = {name: value for name, value in options.items() if value is not None}
        for name, value, valid in [('preset', preset, tuple(presets))] + [
            (name, given[name], valid) for name, valid in self.choices.items() if name in given
        ]:
            if value not in valid:
                raise ValueError(
                    f'{type(self).__name__}: {name} must be one of {valid}, got {value!r}'
                )
        self.loss_weight = float(loss_weight)
        self.options = {**presets[preset], **given}

    def prepare(self, student: DetectorAdapter, teacher: DetectorAdapter) -> None:
        """Make what depends on both detectors; called once, before the optimizer is built."""

    def assigned_stages(self, num_student: int, num_teacher: int) -> Sequence[int]:
        """Teacher stages whose assignment to the ground truth `forward` reads; all unless said."""
        return range(num_teacher)

    def extra_repr(self) -> str:
        return f'loss_weight={self.loss_weight}, {self.options}'


def reduce_count(counts: Tensor) -> Tensor:
    """Counts averaged over processes, whose total is taken to be at least 1.

    DDP averages gradients over processes: with these normalisers they equal those of one process
    with the whole batch.
    """
    return reduce_mean(counts).clamp(min=1 / get_world_size())


def full_precision(like: Tensor) -> torch.autocast:
    """Context without autocast: matching, box arithmetic and masks need float32."""
    return torch.autocast(like.device.type, enabled=False)


def as_float(tensor: Tensor) -> Tensor:
    """The tensor in float32, or float64 if it is that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def weighted(weight: float, terms: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Every term times the loss weight."""
    return {name: weight * value for name, value in terms.items()}

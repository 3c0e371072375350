"""What the distillation losses have in common."""

from typing import Any, Dict, Optional

from mmdet.utils import reduce_mean
from torch import Tensor, nn

from ..adapters import DetectorAdapter
from ..pair import DistillPair

PRESET_NAMES = ('paper', 'released')


class DistillLoss(nn.Module):
    """A weight and options around a function of `functional`.

    Args:
        loss_weight: factor of every term.
        preset: 'paper' or 'released', the source of every option that is None.
        presets: the options of each preset.
        options: what the config gives, None = as the preset has it.

    Raises:
        ValueError: unknown preset.
    """

    #: whether the loss needs the student's decoder on the teacher's queries
    replays = False

    def __init__(
        self,
        loss_weight: float,
        preset: str,
        presets: Optional[Dict[str, Dict[str, Any]]] = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if preset not in PRESET_NAMES:
            raise ValueError(
                f'{type(self).__name__}: preset must be one of {PRESET_NAMES}, got {preset!r}'
            )
        self.loss_weight = float(loss_weight)
        given = {name: value for name, value in options.items() if value is not None}
        self.options = {**(presets or {}).get(preset, {}), **given}

    def prepare(self, student: DetectorAdapter, teacher: DetectorAdapter) -> None:
        """Make what depends on both detectors, before the optimizer is built."""

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        """Named 0-d terms, weighted; a name in `statistics` is logged and not added."""
        raise NotImplementedError(f'{type(self).__name__} defines no forward')

    #: terms that are no part of the loss
    statistics = ()

    def extra_repr(self) -> str:
        return f'loss_weight={self.loss_weight}, {self.options}'


reduce_count = reduce_mean

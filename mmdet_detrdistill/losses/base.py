"""The base of the distillation losses."""

from dataclasses import fields, replace
from inspect import Parameter, signature
from typing import (
    Any,
    Callable,
    ClassVar,
    Dict,
    List,
    Literal,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    get_args,
    get_origin,
    get_type_hints,
)

import torch
from mmdet.utils import reduce_mean
from mmengine.dist import get_world_size
from torch import Tensor, nn

from ..detectors import DetectorAdapter
from ..functional.stages import scaled


class DistillLoss(nn.Module):
    """A weight and options around a function of `functional`.

    `forward(pair)` takes a `DistillPair` and returns named, weighted 0-d terms; the name '' stands
    for the loss itself. A loss that has the CPU work on something while other work is queued
    overrides `start` instead.

    Args:
        loss_weight: factor of every term, >= 0.
        preset: one of `presets`, the source of every option that is not given; None: the first.
        options: fields of the dataclass in `presets`; None = as the preset has it.

    Raises:
        ValueError: unknown preset or option value, with the valid ones.
        TypeError: unknown option.
    """

    #: options by preset: instances of one frozen dataclass, which documents them
    presets: ClassVar[Mapping[str, Any]] = {}
    #: whether the loss needs the student's decoder on injected queries
    injects = False
    #: terms that are logged and not added to the loss
    statistics: Tuple[str, ...] = ()

    def __init__(
        self, loss_weight: float = 1.0, preset: Optional[str] = None, **options: Any
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if loss_weight < 0:
            raise ValueError(f'{name}: loss_weight must be >= 0, got {loss_weight}')
        self.loss_weight = float(loss_weight)
        preset = next(iter(self.presets), None) if preset is None else preset
        if preset not in (*self.presets, None):
            valid = tuple(self.presets)
            raise ValueError(f'{name}: preset must be one of {valid}, got {preset!r}')
        given = {option: value for option, value in options.items() if value is not None}
        self.options: Any = None
        if preset is not None:
            _check_types(name, type(self.presets[preset]), given)
            self.options = replace(self.presets[preset], **given)

    @classmethod
    def option_names(cls) -> List[str]:
        """Return the options that a config of this loss may have."""
        parameters = list(signature(cls).parameters.values())
        names = [p.name for p in parameters if p.kind is not Parameter.VAR_KEYWORD]
        if len(names) < len(parameters):
            names += [field.name for field in fields(next(iter(cls.presets.values())))]
        return names

    def start(self, pair: Any) -> Optional[Callable[[], Dict[str, Tensor]]]:
        """Start what goes on in the background; the result waits for it and gives the terms.

        None: there is nothing to start, `forward` does everything.
        """
        return None

    def forward(self, pair: Any) -> Dict[str, Tensor]:
        """Compute the terms of a `DistillPair`."""
        terms = self.start(pair)
        if terms is None:
            raise NotImplementedError(f'{type(self).__name__} needs `forward` or `start`')
        return terms()

    def prepare(self, student: DetectorAdapter, teacher: DetectorAdapter) -> None:
        """Make what depends on both detectors; called once, before the optimizer is built."""

    def assigned_stages(self, num_student: int, num_teacher: int) -> Sequence[int]:
        """Return the teacher stages whose assignment `forward` reads; default all."""
        return range(num_teacher)

    def extra_repr(self) -> str:
        return f'loss_weight={self.loss_weight}, {self.options}'


def _check_types(loss: str, kind: Any, options: Dict[str, Any]) -> None:
    """Compare the values of options with the type hints of their dataclass."""
    hints = get_type_hints(kind)
    for name, value in options.items():
        hint = hints.get(name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f'{loss}: {name} must be one of {get_args(hint)}, got {value!r}')
        if hint is bool and not isinstance(value, bool):
            raise ValueError(f'{loss}: {name} must be True or False, got {value!r}')
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if hint in (int, float) and not (is_number and value >= 0):
            raise ValueError(f'{loss}: {name} must be a number >= 0, got {value!r}')


def reduce_count(counts: Tensor) -> Tensor:
    """Average counts over processes; their total is at least 1.

    DDP averages gradients over processes: with these normalisers they equal those of one process
    with the whole batch.
    """
    mean: Tensor = reduce_mean(counts)
    return mean.clamp(min=1 / get_world_size())


def full_precision(like: Tensor) -> torch.autocast:
    """Switch autocast off: matching, box arithmetic and masks need float32."""
    return torch.autocast(like.device.type, enabled=False)


def as_float(tensor: Tensor) -> Tensor:
    """Convert a tensor to float32, unless it is float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def weighted(weight: float, terms: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Multiply every term by the loss weight."""
    return {name: scaled(value, weight) for name, value in terms.items()}

"""Warm up, fade or stop a distillation loss over the run."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from mmengine.hooks import Hook

from ..checkpoints.read import unwrap_model
from ..registry import register

Points = Sequence[Tuple[float, float]]


def interpolate(points: Points, now: float) -> float:
    """Return the factor at `now`: linear between the points (time, factor), constant outside.

    Of two points at the same time the later one counts from then on: a step.
    """
    after = bisect_right([time for time, _ in points], now)
    if after in (0, len(points)):
        return float(points[max(0, after - 1)][1])
    (begin, first), (end, last) = points[after - 1], points[after]
    return first + (last - first) * (now - begin) / (end - begin)


class FactorHook(Hook, ABC):
    """Set the factors of distillation losses before each iteration, and log them.

    A factor depends on the runner's counter alone, so that it survives a resume. At 0 a loss is
    skipped with all that only it needs; when all are at 0 the teacher is not run.
    """

    def __init__(self, by_epoch: bool = True) -> None:
        self.by_epoch = by_epoch

    @abstractmethod
    def points(self, distiller: Any) -> Mapping[str, Points]:
        """Return the points (time, factor) by name of loss."""

    def before_train(self, runner: Any) -> None:
        """Check the names of the losses before the first iteration.

        Raises:
            KeyError: no such loss.
            ValueError: another hook sets the same factor.
        """
        distiller = unwrap_model(runner.model).distiller
        for name in self.points(distiller):
            distiller.set_scale(name, 1)
            others = [h for h in runner.hooks if isinstance(h, FactorHook) and h is not self]
            if any(name in other.points(distiller) for other in others):
                raise ValueError(f'two hooks set the factor of {name}: keep one of them')

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        now = float(runner.iter)
        if self.by_epoch:
            now /= len(runner.train_dataloader)
        distiller = unwrap_model(runner.model).distiller
        for name, points in self.points(distiller).items():
            factor = interpolate(points, now)
            distiller.set_scale(name, factor)
            # without the word `loss`, by which MMEngine would log a mean
            runner.message_hub.update_scalar(f'train/{name[len("loss_") :]}.factor', factor)


@register('HOOKS')
class LossWeightScheduleHook(FactorHook):
    """Multiply distillation losses by factors that change over the run.

    Args:
        factors: by name of loss, points (time, factor) in order of time. Between two points the
            factor is linear, before the first and after the last it is constant; two points at one
            time are a step. Warm-up over 2 epochs: `[(0, 0), (2, 1)]`. Fade from 40
            to 50: `[(40, 1), (50, 0)]`. Stop at 40: `[(40, 1), (40, 0)]`. All three losses of
            the paper, and MMRazor's by their names.
        by_epoch: time counts epochs, in fractions within an epoch; otherwise iterations.

    Raises:
        ValueError: no points, not pairs, out of order, or a negative factor.
        KeyError (before training): no such loss.
    """

    def __init__(self, factors: Dict[str, Points], by_epoch: bool = True) -> None:
        super().__init__(by_epoch)
        self.factors = {name: _checked(name, points) for name, points in factors.items()}

    def points(self, distiller: Any) -> Mapping[str, Points]:
        return self.factors


@register('HOOKS')
class TeacherQueryInjectionHook(FactorHook):
    """Inject the teacher's queries from `begin` to `end`, fading out linearly at the end.

    The same as a `LossWeightScheduleHook` for every loss that runs the student's decoder on the
    teacher's queries: 1 on [begin, end - fade], then down to 0 at `end`, 0 elsewhere.

    Args:
        begin: first epoch (or iteration) with injection.
        end: first epoch (or iteration) without; None: never.
        fade: length of the linear fade before `end`, same unit.
        by_epoch: as in `LossWeightScheduleHook`.

    Raises:
        ValueError: `end` before `begin`, or a fade without an end or longer than the span.
    """

    def __init__(
        self, begin: int = 0, end: Optional[int] = None, fade: int = 0, by_epoch: bool = True
    ) -> None:
        super().__init__(by_epoch)
        if end is not None and end < begin:
            raise ValueError(f'end {end} lies before begin {begin}')
        if fade and (end is None or fade > end - begin or fade < 0):
            raise ValueError(f'fade {fade} does not fit between begin {begin} and end {end}')
        self.span: List[Tuple[float, float]] = [(begin, 0), (begin, 1)]
        if end is not None:
            self.span += [(end - fade, 1), (end, 0)]

    def points(self, distiller: Any) -> Mapping[str, Points]:
        return {name: self.span for name, loss in distiller.pair_losses.items() if loss.injects}


def _checked(name: str, points: Points) -> List[Tuple[float, float]]:
    pairs = [tuple(point) for point in points]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f'factors.{name} must be points (time, factor), got {points}')
    times, values = zip(*pairs)
    if list(times) != sorted(times) or min(values) < 0:
        raise ValueError(f'factors.{name}: times must rise and factors be >= 0, got {points}')
    return list(zip(times, values))

"""Switch or fade query injection over the run."""

from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from ..registration import register


@register('HOOKS')
class TeacherQueryInjectionHook(Hook):
    """Inject the teacher's queries from `begin` to `end`, fading out linearly at the end.

    The factor depends on the runner's counter alone, so that it survives a resume:
    1 on [begin, end - fade], then down to 0 at `end`, 0 elsewhere.

    Args:
        begin: first epoch (or iteration) with injection.
        end: first epoch (or iteration) without; None: never.
        fade: length of the linear fade before `end`, same unit.
        by_epoch: count epochs, in fractions within an epoch; otherwise iterations.

    Raises:
        ValueError: `end` before `begin`, or a fade without an end or longer than the span.
    """

    def __init__(
        self, begin: int = 0, end: Optional[int] = None, fade: int = 0, by_epoch: bool = True
    ) -> None:
        if end is not None and end < begin:
            raise ValueError(f'end {end} lies before begin {begin}')
        if fade and (end is None or fade > end - begin or fade < 0):
            raise ValueError(f'fade {fade} does not fit between begin {begin} and end {end}')
        self.begin, self.end, self.fade, self.by_epoch = begin, end, fade, by_epoch

    def factor(self, now: float) -> float:
        """The factor in [0, 1] at epoch or iteration `now`."""
        if now < self.begin or (self.end is not None and now >= self.end):
            return 0.0
        if not self.fade:
            return 1.0
        return min(1.0, (self.end - now) / self.fade)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        now = float(runner.iter)
        if self.by_epoch:
            now /= len(runner.train_dataloader)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        distiller = model.distiller
        for name, loss in distiller.pair_losses.items():
            if loss.replays:
                distiller.set_scale(name, self.factor(now))

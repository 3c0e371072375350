"""Random states that are equal in a resumed and an uninterrupted run."""

from functools import partial
from typing import Any

import numpy as np
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, set_random_seed

from ..registry import register

WORKERS, LOADING, STEP = range(3)


@register('HOOKS')
class IterationSeedHook(Hook):
    """Seed dropout, denoising noise and augmentations from the run's seed and its counters.

    MMEngine's checkpoints hold no random states, so a resumed run draws other numbers. Here each
    epoch and iteration begins with a state that depends only on seed, rank and iteration: a resumed
    run ends with the weights of an uninterrupted one, on a CPU bit for bit. The order of the data
    is equal too if the config sets `randomness.seed`.

    Augmentations are drawn in the workers, which MMEngine seeds alike each time they start; they
    too get a seed per epoch. In an `IterBasedTrainLoop` MMEngine replays the data from the start:
    the workers draw the same again, but without workers (`num_workers=0`) augmentations differ.

    Args:
        restart_workers: restart persistent workers in each epoch, about a second. Otherwise
            their augmentations, and only those, differ after a resume.
        enabled: False leaves MMEngine's seeding alone; `tools/train.py` adds this hook to every
            config that does not name it.
    """

    priority = 'VERY_HIGH'

    def __init__(self, restart_workers: bool = True, enabled: bool = True) -> None:
        self.restart_workers = restart_workers
        self.enabled = enabled

    def before_train_epoch(self, runner: Any) -> None:
        if not self.enabled:
            return
        loader = runner.train_dataloader
        if loader.num_workers and not isinstance(runner.train_loop, IterBasedTrainLoop):
            if isinstance(loader.worker_init_fn, partial):  # MMEngine's, or one like it
                seed = derived_seed(runner, WORKERS)
                loader.worker_init_fn = partial(loader.worker_init_fn, seed=seed)
            if self.restart_workers:
                loader._iterator = None
        set_random_seed(derived_seed(runner, LOADING))

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.enabled:
            set_random_seed(derived_seed(runner, STEP))


def derived_seed(runner: Any, purpose: int) -> int:
    """Derive a seed in [0, 2^31) for this run, rank, iteration and purpose."""
    entropy = [runner.seed, get_rank(), runner.iter, purpose]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)

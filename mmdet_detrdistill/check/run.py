"""What has to hold before a distillation is trained: both sides fit, one step works."""

import warnings
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Iterator, Sequence

from mmengine.config import Config
from mmengine.logging import MMLogger

from ..compat.environment import versions
from ..detectors.class_map import settle_classes
from .batch import first_batch
from .model import Rows, build, check_predictions, describe, describe_start
from .step import check_step


def describe_versions() -> Rows:
    """The installed stack; importing the package has already refused one that does not fit."""
    found = versions()
    stack = ', '.join(f'{name} {found[name]}' for name in ('mmengine', 'mmcv', 'mmdet', 'mmrazor'))
    return [
        ('python, torch', f'{found["python"]}, {found["torch"]}'),
        ('OpenMMLab', f'{stack}: fits together'),
        ('mmdet_detrdistill', found['mmdet_detrdistill']),
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, and errors only from MMEngine's log: it has a line per initialised layer."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def check(
    config: Config,
    *,
    size: Sequence[int] = (256, 320),
    synthetic: bool = False,
    random_teacher: bool = False,
    device: str = 'cpu',
) -> Iterator[Rows]:
    """Check a distillation config; yields its table part by part, as `tools/check.py` prints it.

    Args:
        config: as `launch.read_config` gives it.
        size: (H, W) of random images, where there is no training data.
        synthetic: random images even if there is data.
        random_teacher: random weights in the teacher; no checkpoint is read.
        device: to run the step on.

    Raises:
        ValueError, TypeError, FileNotFoundError, CheckpointError: what does not fit, and why.
    """
    yield describe_versions()
    model = build(config, random_teacher)
    yield describe(model) + describe_start(config)
    check_predictions(model.student_adapter)
    with redirect_stdout(StringIO()):  # COCO's reader talks
        batch, source, names = first_batch(
            config, size, model.student_adapter.num_classes, synthetic
        )
    yield [('classes by name', settle_classes(model, names)), ('batch', source)]
    yield check_step(model, batch, device, random_teacher)


def show(rows: Rows) -> None:
    """Print a part of the table."""
    for name, value in rows:
        print(f'{name:<28}{value}')

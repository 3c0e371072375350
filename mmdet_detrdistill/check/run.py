"""Check a distillation before training: both detectors fit, one step works."""

import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

from mmengine.config import Config
from mmengine.logging import MMLogger

from ..checkpoints.read import CheckpointError
from ..compat.environment import versions
from ..detectors.class_map import settle_classes
from ..hooks.teacher_check import check_hooks, check_names_are_given
from ..registry import SCOPE as PACKAGE
from ..registry import scope_of
from .batch import Rows, first_batch
from .model import build, describe, describe_optimizer, describe_start
from .smallest import check_smallest_image
from .step import check_step, describe_parts, step_parts


def describe_versions() -> Rows:
    """Describe the installed versions; importing the package has refused incompatible ones."""
    found = versions()
    stack = ', '.join(f'{name} {found[name]}' for name in ('mmengine', 'mmcv', 'mmdet', 'mmrazor'))
    return [
        ('python, torch', f'{found["python"]}, {found["torch"]}'),
        ('OpenMMLab', f'{stack}: fits together'),
        ('mmdet_detrdistill', found['mmdet_detrdistill']),
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, and MMEngine's log below errors: it has a line per initialised layer."""
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
    needs_data: bool = False,
) -> Iterator[Rows]:
    """Check a distillation config; yields its table part by part, as `tools/check.py` prints it.

    Args:
        config: as `config.read.open_config` gives it.
        size: (H, W) of random images, where there is no training data.
        synthetic: random images even if there is data.
        random_teacher: random weights in the teacher; no checkpoint is read.
        device: to run the step on.
        needs_data: the training data have to be there.

    Raises:
        ValueError, TypeError, FileNotFoundError, CheckpointError: what does not fit, and why.
    """
    yield describe_versions()
    with quiet(), scope_of(config):
        model = build(config, random_teacher)
        check_hooks(config, model)
        check_names_are_given(config, model)
        rows = describe(model) + describe_start(config, model)
        model.student_adapter.check_num_predictions()
        batch, source, names, labels = first_batch(config, size, model.student_adapter, synthetic)
        if needs_data and 'missing' in source:
            raise FileNotFoundError(
                f'no training data: {source.split("since ")[1]}. Name your own in COCO format '
                '(--data-root), or the place of those that the config names'
            )
        rows += describe_optimizer(config, model)
        rows += check_smallest_image(config, model, batch['data_samples'])
        rows += [('classes by name', settle_classes(model, names)), *labels, ('batch', source)]
        yield rows
        yield check_step(model, batch, device, random_teacher)


def parts_of_step(config: Config, device: str = 'cpu') -> Rows:
    """Measure what a step of a distillation is made of, with random weights; see `step_parts`.

    Raises:
        ValueError, FileNotFoundError: as `check`.
    """
    with quiet(), scope_of(config):
        model = build(config, random_teacher=True).to(device).train()
        batch, _, names, _ = first_batch(config, (256, 320), model.student_adapter, False)
        settle_classes(model, names)
        data = model.data_preprocessor(batch, training=True)
        for _ in range(2):  # the first warms up
            parts = step_parts(model, data['inputs'], data['data_samples'])
        return describe_parts(parts)


def reason_of(error: BaseException) -> str:
    """Say what failed in one line; with type and place unless the error is of this package."""
    reason = ' '.join(str(error).split()) or 'no message'
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, (SystemExit, CheckpointError)) or not frames:
        return reason
    last = Path(frames[-1].filename)
    if PACKAGE in last.parts:
        return reason
    return f'{type(error).__name__}: {reason} ({last.parent.name}/{last.name}:{frames[-1].lineno})'


def show(rows: Rows) -> None:
    """Print a part of the table."""
    for name, value in rows:
        print(f'{name:<28}{value}')

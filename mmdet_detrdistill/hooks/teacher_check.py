"""Compare teacher and data before the first iteration."""

import random
from contextlib import ExitStack, contextmanager
from typing import Any, Iterator, List, Optional, Tuple

import numpy as np
import torch
from mmdet.engine.hooks import MeanTeacherHook, SetEpochInfoHook
from mmdet.engine.runner import TeacherStudentValLoop
from mmengine.config import Config
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from torch import nn

from ..checkpoints.read import unwrap_model
from ..detectors.class_map import class_names, settle_classes
from ..detectors.label_numbers import check_label_numbers
from ..distillation.optimizer import needs_student_names
from ..registry import class_of, register

#: parts of MMDetection that need a model of another kind: what they ask it for, and what to do
OF_OTHER_MODELS = {
    MeanTeacherHook: (
        'semi_train_cfg',
        'it would average the student into the frozen teacher; EMAHook averages the student',
    ),
    SetEpochInfoHook: ('set_epoch', 'remove it from custom_hooks'),
    TeacherStudentValLoop: (
        'semi_test_cfg',
        "val_cfg=dict(type='mmrazor.SingleTeacherDistillValLoop') scores both sides",
    ),
}


def check_hooks(config: Config, model: nn.Module) -> None:
    """Refuse hooks and a validation loop that ask for what neither model nor student has.

    Args:
        config: of the training.
        model: a `DETRDistill`; it has every attribute of its student.

    Raises:
        ValueError: names the hook or loop, and the attribute.
    """
    for kind in (*hook_classes(config), class_of('LOOPS', config.get('val_cfg'))):
        for known, (name, advice) in OF_OTHER_MODELS.items():
            if isinstance(kind, type) and issubclass(kind, known) and not hasattr(model, name):
                student = type(model.student).__name__
                raise ValueError(
                    f'{kind.__name__} needs model.{name}, which neither DETRDistill nor its '
                    f'student {student} has: {advice}'
                )


def hook_classes(config: Config) -> List[Any]:
    """Return the classes of a config's hooks, None for one that is not registered."""
    hooks = [*(config.get('custom_hooks') or []), *(config.get('default_hooks') or {}).values()]
    return [class_of('HOOKS', hook) for hook in hooks]


def check_names_are_given(config: Config, model: Any) -> None:
    """Refuse a config that pairs classes by name and lacks the `TeacherCheckHook` that does so.

    Raises:
        ValueError: says what to add.
    """
    by_name = isinstance(model.class_map_config, (str, dict)) or model.teacher_adapter.prompted
    kinds = [kind for kind in hook_classes(config) if isinstance(kind, type)]
    if by_name and not any(issubclass(kind, TeacherCheckHook) for kind in kinds):
        raise ValueError(
            "classes are paired by name, which needs dict(type='TeacherCheckHook') in custom_hooks"
        )


@register('HOOKS')
class TeacherCheckHook(Hook):
    """Stop a run whose teacher names other classes, or in another order, than the training data.

    Likewise one whose data numbers its classes in another order than it names them, whose
    optimizer constructor was not given the student's parameter names, or one of whose hooks is for
    models of another kind, see `check_hooks`.

    With `class_map='auto'` or a renaming it pairs the classes by name instead, and logs the pairs.

    Args:
        min_map: evaluate the teacher with the config's validation data and evaluator, and stop
            below this mAP, in [0, 1]. None: no evaluation.
        num_images: number of validation images for that; None: all.

    Raises (before training):
        ValueError: names the class; or names are needed and missing. See `settle_classes`,
            `check_label_numbers` and `check_hooks`. Or the mAP is lower, or `min_map` is given and
            the config has no validation with a mAP.
    """

    priority = 'VERY_HIGH'  # before hooks that change the model

    def __init__(self, min_map: Optional[float] = None, num_images: Optional[int] = 200) -> None:
        if min_map is not None and not 0 <= min_map <= 1:
            raise ValueError(f'min_map is a mAP in [0, 1], got {min_map}')
        self.min_map, self.num_images = min_map, num_images

    def before_train(self, runner: Any) -> None:
        model = unwrap_model(runner.model)
        check_hooks(runner.cfg, model)
        if needs_student_names(runner.cfg):
            raise ValueError(
                f'optim_wrapper.constructor {runner.cfg.optim_wrapper.constructor!r} does not see '
                "the student's own parameter names: train with tools/train.py, or set "
                "constructor='StudentOptimWrapperConstructor' and name yours student_constructor"
            )
        dataset = runner.train_dataloader.dataset
        names = class_names(getattr(dataset, 'metainfo', None) or {})
        check_label_numbers(dataset, names, model.student_adapter.num_classes)
        runner.logger.info(f'Teacher check: {settle_classes(model, names)}.')
        if self.min_map is None:
            return
        if runner.val_loop is None:
            raise ValueError('min_map needs val_dataloader, val_cfg and val_evaluator')
        with untouched_random_states():
            score, count = teacher_map(runner, model, self.num_images)
        found = f'The teacher reaches {score:.3f} mAP on {count} validation images'
        if not score >= self.min_map:
            raise ValueError(
                f'{found}, below min_map={self.min_map}: its checkpoint, its classes or the '
                'preprocessing of the images is not what it was trained with'
            )
        runner.logger.info(f'{found}.')


@contextmanager
def untouched_random_states() -> Iterator[None]:
    """Leave the random states of Python, NumPy and PyTorch as they were."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@torch.no_grad()
def teacher_map(runner: Any, model: Any, num_images: Optional[int]) -> Tuple[float, int]:
    """Return the mAP of the teacher on the first validation images, and their number.

    Raises:
        ValueError: the evaluator gives no mAP.
    """
    loader, evaluator = runner.val_dataloader, runner.val_evaluator
    total = len(loader.dataset)
    own_share = -(-min(num_images or total, total) // get_world_size())
    seen: List[int] = []
    for batch in loader:
        samples = model.predict_teacher(batch)[: own_share - len(seen)]
        seen += [sample.img_id for sample in samples]
        evaluator.process(data_samples=samples, data_batch=batch)
        if len(seen) >= own_share:
            break
    images = sorted({image for part in all_gather_object(seen) for image in part})
    with ExitStack() as restored:
        for metric in evaluator.metrics:
            if hasattr(metric, 'img_ids'):  # CocoMetric would count the other images as missed
                restored.callback(setattr, metric, 'img_ids', metric.img_ids)
                metric.img_ids = images
        scores = evaluator.evaluate(min(total, own_share * get_world_size()))
    for name, value in scores.items():
        if name.endswith('mAP'):
            return float(value), len(images)
    raise ValueError(f'min_map: val_evaluator gives no mAP, only {sorted(scores)}')

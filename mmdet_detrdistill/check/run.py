"""What has to hold before a distillation is trained: both sides fit, one step works."""

import platform
import time
import warnings
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any, Dict, Iterator, List, Sequence

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch import nn

from ..config.read import detector_config
from ..detectors.class_map import settle_classes
from ..distillation.algorithm import DETRDistill
from .model import (
    Rows,
    check_predictions,
    count_flops,
    describe,
    describe_levels,
    first_batch,
    gradient_norms,
    peak_memory,
    teacher_class_names,
    verdict,
)


def build(config: Config, random_teacher: bool) -> DETRDistill:
    """The algorithm of a config, with random weights in the student (and teacher, if asked)."""
    if config.model.get('type') != 'DETRDistill':
        raise ValueError("not a distillation config: model.type is not 'DETRDistill'")
    model = dict(config.model)
    with DefaultScope.overwrite_default_scope('mmdet'):
        if random_teacher:
            teacher = MODELS.build(detector_config(model['teacher']))
            forget_pretrained(teacher)
            teacher.init_weights()
            model.update(teacher=teacher, teacher_ckpt=None)
        built = MODELS.build(model)
        forget_pretrained(built)
        built.init_weights()
    if random_teacher and isinstance(built.class_map_config, (str, dict)):
        names = teacher_class_names(config.model.teacher, built.teacher_adapter.num_classes)
        if names is not None:  # what its checkpoint is going to hold
            built.teacher_meta = dict(dataset_meta=dict(classes=names))
    return built


def forget_pretrained(detector: nn.Module) -> None:
    """Let a detector start from random weights: they fit alike, and nothing is fetched."""
    for module in detector.modules():
        if pretrained_sources(getattr(module, 'init_cfg', None)):
            module.init_cfg = None


def pretrained_sources(detector: Any) -> List[str]:
    """Where a config, or a part of it, takes pretrained weights from."""
    if isinstance(detector, (list, tuple)):
        return [name for item in detector for name in pretrained_sources(item)]
    if not isinstance(detector, dict):
        return []
    if detector.get('type') == 'Pretrained':
        return [detector['checkpoint']]
    return pretrained_sources(list(detector.values()))


def describe_start(config: Config) -> Rows:
    """The weights that the student's training starts from, where they are not random."""
    names = pretrained_sources(detector_config(config.model.architecture, 'architecture'))
    if not names:
        return []
    text = f'{", ".join(names)} (not loaded for this check)'
    if any(name.startswith('torchvision://') for name in names) and not find_spec('torchvision'):
        text += '; needs torchvision, which is missing'
    return [('student starts from', text)]


def check_step(
    model: DETRDistill, batch: Dict[str, Any], device: str, random_teacher: bool
) -> Rows:
    """One step: levels, FLOPs, every loss with the norm of its gradient, time and memory.

    The loss weights are judged only with a trained teacher.

    Raises:
        ValueError: a loss is not finite, or one of the distillation losses moves nothing although
            the batch has objects.
    """
    model = model.to(device).train()
    data = model.data_preprocessor(batch, training=True)
    images, samples = data['inputs'], data['data_samples']
    rows = describe_levels(model, images, samples)
    adapters = (model.student_adapter, model.teacher_adapter)
    flops = [count_flops(adapter, images, samples) for adapter in adapters]
    rows.append(('forward GFLOPs per image', ' / '.join(flops)))

    with peak_memory(device) as memory:
        start = time.perf_counter()
        losses = model.loss(images, samples)
        total, terms = model.parse_losses(losses)
        forward = time.perf_counter() - start
        bad = [name for name, value in terms.items() if not torch.isfinite(torch.as_tensor(value))]
        if bad:
            raise ValueError(f'loss terms are not finite: {bad}')
        norms = gradient_norms(model, losses)
        start = time.perf_counter()
        total.backward()
        backward = time.perf_counter() - start
    pair_losses = model.distiller.pair_losses
    switched_off = [name for name, loss in pair_losses.items() if loss.loss_weight == 0]
    idle = [name for name, (_, norm) in norms.items() if norm == 0 and name not in switched_off]
    if idle and any(len(sample.gt_instances) for sample in samples):
        raise ValueError(f'no gradient of {idle} reaches the student')
    rows.append(('seconds forward + backward', f'{forward:.2f} + {backward:.2f}'))
    rows.append(('peak memory', memory.text()))
    judged = 'no verdict with a random teacher' if random_teacher else 'verdict'
    rows.append(('', f'value, gradient norm, {judged}'))
    for name, (value, norm) in norms.items():
        weight = None if random_teacher else getattr(pair_losses.get(name), 'loss_weight', None)
        rows.append((name, f'{value:.4g}, {norm:.4g}{verdict(norm, norms["task"][1], weight)}'))
    rows += [(name, f'{float(value):.4g}') for name, value in terms.items() if '_kd.' in name]
    return rows


def versions() -> Rows:
    """The installed stack; importing the package has already refused one that does not fit."""
    import mmcv
    import mmdet
    import mmengine
    import mmrazor

    from .. import __version__

    stack = ', '.join(f'{m.__name__} {m.__version__}' for m in (mmengine, mmcv, mmdet, mmrazor))
    return [
        ('python, torch', f'{platform.python_version()}, {torch.__version__}'),
        ('OpenMMLab', f'{stack}: fits together'),
        ('mmdet_detrdistill', __version__),
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
    yield versions()
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

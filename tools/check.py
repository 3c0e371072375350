"""Check a config before training: build both sides, run one step on one batch, print a table.

    python tools/check.py CONFIG [--cfg-options key=value ...] [--random-teacher] [--synthetic]

Exit code 1, with the reason in one line, when something does not fit. The table is what to paste
into an issue.
"""

import argparse
import platform
import sys
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn

import mmdet_detrdistill
from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.functional import stage_groups
from mmdet_detrdistill.inspection import (
    count_flops,
    gradient_norms,
    peak_memory,
    synthetic_batch,
    verdict,
)
from mmdet_detrdistill.launch import add_common_options, read_config
from mmdet_detrdistill.teacher import detector_config

Rows = List[Tuple[str, str]]


def build(config: Config, random_teacher: bool) -> DETRDistill:
    """The algorithm of a config, with random weights in the student (and teacher, if asked)."""
    if config.get('model', {}).get('type') != 'DETRDistill':
        raise ValueError("not a distillation config: model.type is not 'DETRDistill'")
    model = config.model
    with DefaultScope.overwrite_default_scope('mmdet'):
        if random_teacher:
            teacher = MODELS.build(detector_config(model.teacher))
            teacher.init_weights()
            model = {**model, 'teacher': teacher, 'teacher_ckpt': None}
        return MODELS.build(dict(model))


def first_batch(config: Config, size: Sequence[int], synthetic: bool) -> Tuple[Dict[str, Any], str]:
    """The first batch of the training data, or a synthetic one when there is no data."""
    num_classes = config.model.architecture.bbox_head.num_classes
    if not synthetic:
        try:
            loader = Runner.build_dataloader(config.train_dataloader, seed=0)
            return next(iter(loader)), 'first batch of the training data'
        except FileNotFoundError as error:
            missing = error.filename or error
            return synthetic_batch(size, num_classes), f'synthetic, since {missing} is missing'
    return synthetic_batch(size, num_classes), 'synthetic'


def describe(model: DETRDistill) -> Rows:
    """Both sides and how they are paired."""
    student, teacher = model.student_adapter, model.teacher_adapter
    sides = (student, teacher)

    def both(value: Any) -> str:
        return ' / '.join(str(value(side)) for side in sides)

    depths = [side.detector.decoder.num_layers for side in sides]
    groups = stage_groups(*depths)
    paired = ', '.join(f'S{s + 1} <- {[t + 1 for t in g]}' for s, g in enumerate(groups))
    rows = [
        ('', 'student / teacher'),
        ('detector', both(lambda side: type(side.detector).__name__)),
        ('backbone', both(lambda side: type(side.detector.backbone).__name__)),
        ('width', both(lambda side: side.embed_dims)),
        ('queries', both(lambda side: side.detector.num_queries)),
        ('kind of query', both(lambda side: side.query_kind)),
        ('class head', both(lambda side: side.activation)),
        ('classes', both(lambda side: side.num_classes)),
        ('decoder stages', f'{depths[0]} / {depths[1]}: {paired}'),
        ('parameters (M)', both(lambda side: round(parameters_of(side.detector) / 1e6, 2))),
    ]
    for name, loss in model.distiller.pair_losses.items():
        if loss.replays:
            rows.append((f'{name} injects', type(loss.injection).__name__))
    return rows


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def check_step(model: DETRDistill, batch: Dict[str, Any], device: str) -> Rows:
    """One step: levels, FLOPs, every loss with the norm of its gradient, time and memory."""
    model = model.to(device).train()
    data = model.data_preprocessor(batch, training=True)
    images, samples = data['inputs'], data['data_samples']
    rows: Rows = []
    with torch.no_grad():
        walks = []
        for adapter in (model.student_adapter, model.teacher_adapter):
            walks.append(adapter.encode(images, samples))
            if hasattr(adapter.detector, 'cache_dict'):
                adapter.decode(walks[-1])
    strides = [[round(images.shape[-1] / width) for _, width in walk.sizes] for walk in walks]
    rows.append(('feature strides', f'{strides[0]} / {strides[1]}'))
    flops = [count_flops(side, images, samples) for side in (model.student, model.teacher)]
    rows.append(('forward GFLOPs per image', ' / '.join(flops)))

    with peak_memory(device) as memory:
        start = time.perf_counter()
        losses = model.loss(images, samples)
        total, terms = model.parse_losses(losses)
        forward = time.perf_counter() - start
        norms = gradient_norms(model, losses)
        start = time.perf_counter()
        total.backward()
        backward = time.perf_counter() - start
    bad = [name for name, value in terms.items() if not torch.isfinite(torch.as_tensor(value))]
    if bad:
        raise ValueError(f'loss terms are not finite: {bad}')
    rows.append(('seconds forward + backward', f'{forward:.2f} + {backward:.2f}'))
    rows.append(('peak memory', memory.text()))
    rows.append(('', 'value, gradient norm, verdict'))
    for name, (value, norm) in norms.items():
        weight = getattr(model.distiller.pair_losses.get(name), 'loss_weight', None)
        rows.append((name, f'{value:.4g}, {norm:.4g}{verdict(norm, norms["task"][1], weight)}'))
    rows += [(name, f'{float(value):.4g}') for name, value in terms.items() if '_kd.' in name]
    return rows


def versions() -> Rows:
    """The installed stack; importing the package has already refused one that does not fit."""
    import mmcv
    import mmdet
    import mmengine
    import mmrazor

    stack = ', '.join(f'{m.__name__} {m.__version__}' for m in (mmengine, mmcv, mmdet, mmrazor))
    return [
        ('python, torch', f'{platform.python_version()}, {torch.__version__}'),
        ('OpenMMLab', f'{stack}: fits together'),
        ('mmdet_detrdistill', mmdet_detrdistill.__version__),
    ]


def show(rows: Rows) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f'{name:<{width}}  {value}')


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument(
        '--random-teacher', action='store_true', help='no checkpoint yet: random teacher weights'
    )
    parser.add_argument('--synthetic', action='store_true', help='random images even if data exist')
    parser.add_argument(
        '--size', type=int, nargs=2, default=(256, 320), metavar=('H', 'W'), help='of random images'
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args(argv)
    MMLogger.get_current_instance().setLevel('WARNING')  # one line per initialised layer otherwise
    try:
        show(versions())
        config = read_config(args)
        model = build(config, args.random_teacher)
        model.init_weights()
        batch, source = first_batch(config, args.size, args.synthetic)
        show([*describe(model), ('batch', source), *check_step(model, batch, args.device)])
    except (Exception, SystemExit) as error:  # every reason becomes one line
        reason = ' '.join(str(error).split())
        print(f'DOES NOT FIT: {type(error).__name__}: {reason}', file=sys.stderr)
        return 1
    print('FITS')
    return 0


if __name__ == '__main__':
    sys.exit(main())

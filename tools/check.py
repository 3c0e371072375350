"""Check a config before training: build both sides, run one step on one batch, print a table.

    python tools/check.py CONFIG [--cfg-options key=value ...] [--random-teacher] [--synthetic]

Exit code 1, with the reason in one line, when something does not fit. The table is what to paste
into an issue.
"""

import argparse
import platform
import sys
import time
import traceback
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

try:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import mmdet_detrdistill
except ImportError as error:  # the installation, with the remedy
    sys.exit(f'DOES NOT FIT: {" ".join(str(error).split())}')

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.class_map import settle_classes
from mmdet_detrdistill.compat import CheckpointError
from mmdet_detrdistill.inspection import (
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
from mmdet_detrdistill.launch import add_common_options, read_config
from mmdet_detrdistill.teacher import detector_config


def build(config: Config, random_teacher: bool) -> DETRDistill:
    """The algorithm of a config, with random weights in the student (and teacher, if asked)."""
    if config.model.get('type') != 'DETRDistill':
        raise ValueError("not a distillation config: model.type is not 'DETRDistill'")
    model = dict(config.model)
    with DefaultScope.overwrite_default_scope('mmdet'):
        if random_teacher:
            teacher = MODELS.build(detector_config(model['teacher']))
            teacher.init_weights()
            model.update(teacher=teacher, teacher_ckpt=None)
        built = MODELS.build(model)
        built.init_weights()
    if random_teacher and isinstance(built.class_map_config, (str, dict)):
        names = teacher_class_names(config.model.teacher, built.teacher_adapter.num_classes)
        if names is not None:  # what its checkpoint is going to hold
            built.teacher_meta = dict(dataset_meta=dict(classes=names))
    return built


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

    stack = ', '.join(f'{m.__name__} {m.__version__}' for m in (mmengine, mmcv, mmdet, mmrazor))
    return [
        ('python, torch', f'{platform.python_version()}, {torch.__version__}'),
        ('OpenMMLab', f'{stack}: fits together'),
        ('mmdet_detrdistill', mmdet_detrdistill.__version__),
    ]


def show(rows: Rows) -> None:
    for name, value in rows:
        print(f'{name:<28}{value}')


def check(args: argparse.Namespace) -> None:
    """Print the table, part by part; raise what does not fit."""
    show(versions())
    config = read_config(args, needs_data=False)
    model = build(config, args.random_teacher)
    show(describe(model))
    check_predictions(model.student_adapter)
    with redirect_stdout(StringIO()):  # COCO's reader talks
        batch, source, names = first_batch(
            config, args.size, model.student_adapter.num_classes, args.synthetic
        )
    show([('classes by name', settle_classes(model, names)), ('batch', source)])
    show(check_step(model, batch, args.device, args.random_teacher))


def refuse(error: BaseException) -> int:
    """Print why it does not do, in one line; the exit code.

    An error that is not the package's own is followed by the place where it arose.
    """
    reason = ' '.join(str(error).split()) or 'no message'
    frames = traceback.extract_tb(error.__traceback__)
    if frames and not isinstance(error, (SystemExit, CheckpointError)):
        last = Path(frames[-1].filename)
        if 'mmdet_detrdistill' not in last.parts and last != Path(__file__):
            reason += f' ({last.parent.name}/{last.name}:{frames[-1].lineno})'
    print(f'DOES NOT FIT: {type(error).__name__}: {reason}', file=sys.stderr)
    return 1


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
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')  # one line per initialised layer otherwise
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            check(args)
    except (Exception, SystemExit) as error:  # every reason becomes one line
        return refuse(error)
    finally:
        logger.setLevel(level)
    print('FITS')
    return 0


if __name__ == '__main__':
    sys.exit(main())

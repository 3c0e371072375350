"""Train a detector, or distil one: what `mim train mmdet_detrdistill CONFIG` runs."""

from argparse import ArgumentParser
from typing import Optional, Sequence

from mmengine.config import Config
from mmengine.runner import Runner

import mmdet_detrdistill  # noqa: F401  registers everything
from mmdet_detrdistill.checkpoints.resume import check_start, make_resumable, newest_checkpoint
from mmdet_detrdistill.config.launch import add_common_options, join_processes
from mmdet_detrdistill.config.read import read_config


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate from auto_scale_lr.base_batch_size to the actual batch size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint; without a value from the newest in the work folder',
    )
    return parser


def use_mixed_precision(config: Config) -> None:
    wrapper = config.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if kind == 'OptimWrapper':
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
    elif kind != 'AmpOptimWrapper':
        raise SystemExit(f'--amp needs optim_wrapper.type OptimWrapper, the config has {kind}')


def scale_learning_rate(config: Config) -> None:
    if 'base_batch_size' not in (config.get('auto_scale_lr') or {}):
        raise SystemExit('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
    config.auto_scale_lr.enable = True


def main(argv: Optional[Sequence[str]] = None) -> Runner:
    """Train, and return the runner as it is afterwards."""
    arguments = build_parser().parse_args(argv)
    config = read_config(arguments)
    if arguments.amp:
        use_mixed_precision(config)
    if arguments.auto_scale_lr:
        scale_learning_rate(config)
    make_resumable(config)
    if arguments.resume is not None:
        config.resume = True
        auto = arguments.resume == 'auto'
        config.load_from = newest_checkpoint(config.work_dir) if auto else arguments.resume
    join_processes(config)
    runner = Runner.from_cfg(config)
    check_start(config, runner.model)
    runner.train()
    return runner


if __name__ == '__main__':
    main()

"""Train a detector, or distil one: what `mim train mmdet_detrdistill CONFIG` runs."""

from argparse import ArgumentParser
from typing import Optional, Sequence

from mmengine.runner import Runner

from mmdet_detrdistill.api import train
from mmdet_detrdistill.config.launch import add_common_options
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


def main(argv: Optional[Sequence[str]] = None) -> Runner:
    """Train, and return the runner as it is afterwards."""
    arguments = build_parser().parse_args(argv)
    options = dict(amp=arguments.amp, auto_scale_lr=arguments.auto_scale_lr)
    return train(read_config(arguments), resume=arguments.resume, **options)


if __name__ == '__main__':
    main()

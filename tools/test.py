"""Evaluate a detector: what `mim test mmdet_detrdistill CONFIG --checkpoint FILE` runs.

With the config of a distillation it evaluates the student alone: the teacher is not needed.
"""

from argparse import ArgumentParser, Namespace
from typing import Any, Dict, Optional, Sequence

from mmengine.config import Config

from mmdet_detrdistill.api import evaluate
from mmdet_detrdistill.config.launch import add_common_options
from mmdet_detrdistill.config.read import read_config


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument('checkpoint', help='checkpoint of a distillation, or a plain one')
    parser.add_argument('--out', help='write all predictions to this .pkl file')
    parser.add_argument('--show', action='store_true', help='show images with predictions')
    parser.add_argument('--show-dir', help='write images with predictions to this folder')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds per shown image')
    return parser


def draw_predictions(config: Config, arguments: Namespace) -> None:
    hook = config.default_hooks.get('visualization')
    if hook is None:
        raise SystemExit('--show and --show-dir need default_hooks.visualization in the config')
    hook.update(draw=True, show=arguments.show, wait_time=arguments.wait_time)
    if arguments.show_dir is not None:
        hook.test_out_dir = arguments.show_dir


def dump_predictions(config: Config, path: str) -> None:
    if not path.endswith(('.pkl', '.pickle')):
        raise SystemExit(f'--out must end in .pkl or .pickle, got {path}')
    evaluators = config.test_evaluator
    evaluators = [evaluators] if isinstance(evaluators, dict) else list(evaluators)
    config.test_evaluator = [*evaluators, dict(type='mmdet.DumpDetResults', out_file_path=path)]


def main(argv: Optional[Sequence[str]] = None) -> Dict[str, Any]:
    """Evaluate, and return the metrics by name."""
    arguments = build_parser().parse_args(argv)
    config = read_config(arguments)
    if arguments.show or arguments.show_dir is not None:
        draw_predictions(config, arguments)
    if arguments.out is not None:
        dump_predictions(config, arguments.out)
    return evaluate(config, arguments.checkpoint)


if __name__ == '__main__':
    main()

"""Measure how strongly each distillation loss pulls on the student, and suggest its weight.

    python tools/choose_weights.py CONFIG [--checkpoints CKPT ...] [--batches 8] [--target 0.5]

For each checkpoint of the distilled or plain student (without any: random weights) it takes the
training batches of the config, and prints the norm of each loss's gradient in the student over the
norm of the task loss's gradient, at the weights of the config. The suggestion brings the mean over
the checkpoints to `--target`. `AdaptiveLossWeightHook` measures the same while it trains.
"""

import argparse
import json
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Dict, List, Optional, Sequence

import torch
from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.checkpoints.export import student_state_dict
from mmdet_detrdistill.checkpoints.read import load_checkpoint_file
from mmdet_detrdistill.config.launch import add_common_options
from mmdet_detrdistill.config.read import read_config
from mmdet_detrdistill.detectors.class_map import class_names, settle_classes
from mmdet_detrdistill.distillation.balance import measure
from mmdet_detrdistill.registry import scope_of


def ratios(model: DETRDistill, batches: List[dict]) -> Dict[str, float]:
    """Mean over batches of each distillation loss's gradient norm over the task loss's."""
    found: Dict[str, List[float]] = {}
    for batch in batches:
        norms = measure(model, batch)
        task = norms.pop('task')
        for name, norm in norms.items():
            found.setdefault(name, []).append(norm / task)
    return {name: mean(values) for name, values in found.items()}


def main(argv: Optional[Sequence[str]] = None) -> Dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument('--checkpoints', nargs='*', default=[], help='students, early to late')
    parser.add_argument('--batches', type=int, default=8)
    parser.add_argument('--target', type=float, default=0.5, help='wanted ratio to the task loss')
    parser.add_argument('--json', type=Path, help='write the figures here')
    args = parser.parse_args(argv)
    MMLogger.get_current_instance().setLevel('WARNING')

    config = read_config(args)
    with scope_of(config):
        torch.manual_seed(0)
        model = MODELS.build(config.model)
        model.init_weights()
        loader = Runner.build_dataloader(config.train_dataloader, seed=0)
        settle_classes(model, class_names(getattr(loader.dataset, 'metainfo', None) or {}))
        batches = list(islice(loader, args.batches))
    model.to('cuda' if torch.cuda.is_available() else 'cpu')
    rows: Dict[str, Dict[str, float]] = {}
    for path in args.checkpoints or ['']:
        if path:
            state = student_state_dict(load_checkpoint_file(path))
            model.student.load_state_dict(state)
        rows[path or 'random weights'] = ratios(model.train(), batches)

    names = list(model.distiller.pair_losses)
    print('gradient norm / task loss | ' + ' | '.join(names))
    for path, row in rows.items():
        print(f'{path} | ' + ' | '.join(f'{row[name]:.3f}' for name in names))
    weights = {
        name: loss.loss_weight * args.target / mean(row[name] for row in rows.values())
        for name, loss in model.distiller.pair_losses.items()
    }
    print(f'weight for {args.target} | ' + ' | '.join(f'{weights[name]:.3g}' for name in names))
    if args.json:
        args.json.write_text(json.dumps(dict(ratios=rows, weights=weights), indent=2))
    return weights


if __name__ == '__main__':
    main()

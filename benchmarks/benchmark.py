"""Time and memory of a distilled step, against the steps that it is made of.

    python benchmarks/benchmark.py CONFIG [--size 800 1333] [--images 2] [--repeats 3] [--reference]
    python benchmarks/benchmark.py CONFIG --losses aligned paper logits+feature
    python benchmarks/benchmark.py CONFIG --sweep queries=100,300,900 stages=2,4,6

Any distillation config; random weights and a synthetic batch. In one process and in turn it takes
(a) the student's own step, (b) the teacher's inference, and the distilled step with each set of
losses (steps: forward and backward; no optimizer), prints medians, spread and ratios such as
aligned / (a + b); then each loss by itself, peak memory, and how many operations a step is made
of (kernels, on a GPU). `--reference` adds the procedure of the released code.
"""

import argparse
import json
import platform
import sys
import time
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, List, Optional, Sequence

sys.path.insert(0, str(Path(__file__).parent))

import torch
from benchmark_released import released_losses
from benchmark_steps import (
    Step,
    backward,
    footprint,
    make_batch,
    make_model,
    parts,
    timed,
    weight_bytes,
    whole_steps,
)
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmdet_detrdistill.config.launch import add_common_options
from mmdet_detrdistill.config.load import detector_config
from mmdet_detrdistill.config.read import read_config
from mmdet_detrdistill.config.write import loss_configs

SWEEPS = {'queries', 'images', 'stages', 'levels'}


def seconds_of(
    prepare: Dict[str, Callable[[], Step]], args: argparse.Namespace
) -> Dict[str, List[float]]:
    """Seconds of each step, in turn, after rounds that do not count."""
    taken: Dict[str, List[float]] = {name: [] for name in prepare}
    for repeat in range(-args.warmup, args.repeats):
        for name, make in prepare.items():
            seconds = timed(make(), args.device, args.clock)
            if repeat >= 0:
                taken[name].append(seconds)
    return taken


def measure(config: Config, args: argparse.Namespace) -> Dict[str, Any]:
    """The whole report of one config as a dict."""
    recipes = {words: loss_configs(words.split('+')) for words in args.losses}
    own = config.model.distiller.distill_losses  # for the options of its losses
    used = {name: own.get(name) or loss for r in recipes.values() for name, loss in r.items()}
    config.model.distiller.distill_losses = used
    model = make_model(config, args.device)
    num_classes = model.student_adapter.num_classes
    batch = make_batch(tuple(args.size), args.images, args.objects, num_classes, args.device)
    report: Dict[str, Any] = {}
    if not args.parts_only:
        steps = whole_steps(model, *batch, recipes)
        if args.reference:
            steps['released'] = reference_step(model, *batch)
        ready = {name: (lambda s=step: s) for name, step in steps.items()}
        report['seconds'] = seconds_of(ready, args)
    report['parts'] = seconds_of(parts(model, *batch), args)
    if not args.parts_only:
        report['ratios'] = ratios(report, recipes)
        weights = {name: weight_bytes(getattr(model, name)) for name in ('student', 'teacher')}
        found = {name: footprint(step, args.device) for name, step in steps.items()}
        peaks, report['operations'] = ({n: f[i] for n, f in found.items()} for i in (0, 1))
        base = sum(weights.values()) + peaks['student']
        more = {name: sum(weights.values()) + peaks[name] for name in peaks if name in recipes}
        report['memory'] = dict(
            weights=weights, peaks=peaks, ratios={name: v / base for name, v in more.items()}
        )
    return report


def reference_step(model: Any, *batch: Any) -> Step:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        backward(model.parse_losses(released_losses(model, *batch))[0])

    return step


def ratios(report: Dict[str, Any], recipes: Dict[str, Any]) -> Dict[str, float]:
    """Of medians: a student's step, b teacher's inference, and distilled steps."""
    mid = {name: median(values) for name, values in report['seconds'].items()}
    part = {name: median(values) for name, values in report['parts'].items()}
    base = mid['student'] + mid['teacher']
    found = {f'{name} / (a + b)': mid[name] / base for name in recipes}
    for name, losses in recipes.items():
        parts = sum(part[loss[len('loss_') :]] for loss in losses) + part['gt_assignment']
        found[f'(a + b + parts of {name}) / (a + b)'] = (base + parts) / base
    found.update({f'{name} / a': seconds / mid['student'] for name, seconds in part.items()})
    if 'released' in mid:
        found.update({f'released / {name}': mid['released'] / mid[name] for name in recipes})
    return found


def show(report: Dict[str, Any]) -> None:
    for title in ('seconds', 'parts'):
        if title in report:
            print(f'\n{title:14s} {"median":>9s} {"least":>9s} {"most":>9s}')
            for name, values in report[title].items():
                print(f'{name:14s} {median(values):9.4f} {min(values):9.4f} {max(values):9.4f}')
    for name, value in report.get('ratios', {}).items():
        print(f'{name:40s} {value:7.3f}')
    if 'memory' in report:
        row = ', '.join(f'{name} {count}' for name, count in report['operations'].items())
        print(f'operations: {row}')
        memory = report['memory']
        for kind in ('weights', 'peaks'):
            row = ', '.join(f'{name} {v / 2**20:.0f}' for name, v in memory[kind].items())
            print(f'{kind}, MiB: {row}')
        for name, ratio in memory['ratios'].items():
            print(f'memory, {name} / (student + teacher weights): {ratio:.3f}')


def changed(config: Config, name: str, value: int) -> Config:
    """Both detectors with another number of queries, decoder stages or levels."""
    config = deepcopy(config)
    config.model.teacher = detector_config(config.model.teacher)
    config.model.architecture = detector_config(config.model.architecture)
    for detector in (config.model.teacher, config.model.architecture):
        if name == 'queries':
            detector.num_queries = value
        elif name == 'stages':
            detector.decoder.num_layers = value
        elif name == 'levels':
            indices = [3] if value == 1 else list(range(max(1, 5 - value), 4))
            channels = detector.neck.in_channels[-len(indices) :]
            detector.backbone.out_indices = indices
            detector.neck.update(in_channels=channels, num_outs=value)
            detector.num_feature_levels = value
            detector.encoder.layer_cfg.self_attn_cfg.num_levels = value
            detector.decoder.layer_cfg.cross_attn_cfg.num_levels = value
    return config


def sweep(config: Config, args: argparse.Namespace) -> List[Dict[str, Any]]:
    rows = []
    for name, values in args.sweep.items():
        for value in values:
            options = argparse.Namespace(**{**vars(args), 'parts_only': True})
            if name == 'images':
                options.images = value
            report = measure(changed(config, name, value), options)
            rows.append(dict(swept=name, value=value, parts=report['parts']))
            row = ', '.join(f'{part} {median(v):.4f}' for part, v in report['parts'].items())
            print(f'{name} {value}: {row}')
    return rows


def parse_sweep(words: Sequence[str]) -> Dict[str, List[int]]:
    found = {}
    for word in words:
        name, _, values = word.partition('=')
        if name not in SWEEPS or not values:
            raise SystemExit(f'--sweep takes {sorted(SWEEPS)} as NAME=1,2,3; got {word!r}')
        found[name] = [int(value) for value in values.split(',')]
    return found


def main(argv: Optional[Sequence[str]] = None) -> Dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument(
        '--losses',
        nargs='+',
        default=['aligned', 'paper'],
        help="sets of losses, each measured as a whole step; 'logits+feature' is one set",
    )
    parser.add_argument('--size', type=int, nargs=2, default=[800, 1333], metavar=('H', 'W'))
    parser.add_argument('--images', type=int, default=2)
    parser.add_argument('--objects', type=int, default=7, help='per image')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--warmup', type=int, default=1, help='rounds before, not counted')
    parser.add_argument(
        '--clock',
        choices=['wall', 'cpu'],
        default='wall',
        help="'cpu' adds up what all threads computed: for a machine that others use too",
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--autocast',
        choices=['float32', 'bfloat16', 'float16'],
        default='float32',
        help='mixed precision of forward passes and losses; no gradient scaler',
    )
    parser.add_argument('--threads', type=int, help='of PyTorch')
    parser.add_argument('--reference', action='store_true', help='the released procedure too')
    parser.add_argument('--parts-only', action='store_true')
    parser.add_argument('--sweep', nargs='+', default=[], metavar='NAME=VALUES')
    parser.add_argument('--json', type=Path, help='write the report here')
    args = parser.parse_args(argv)
    args.sweep = parse_sweep(args.sweep)
    MMLogger.get_current_instance().setLevel('WARNING')
    if args.threads:
        torch.set_num_threads(args.threads)

    config = read_config(args, needs_data=False)
    print(
        f'{Path(args.config).name}: {args.images} x {args.size[0]} x {args.size[1]}, {args.device}'
    )
    dtype = getattr(torch, args.autocast)
    with torch.autocast(args.device.split(':')[0], dtype, enabled=dtype is not torch.float32):
        report = dict(sweep=sweep(config, args)) if args.sweep else measure(config, args)
    device = torch.cuda.get_device_name() if args.device.startswith('cuda') else platform.machine()
    report['setting'] = dict(
        config=Path(args.config).name, size=args.size, images=args.images, objects=args.objects,
        clock=args.clock, device=args.device, name=device, autocast=args.autocast,
        threads=torch.get_num_threads(), torch=torch.__version__, date=time.strftime('%Y-%m-%d'),
    )  # fmt: skip
    if not args.sweep:
        show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    return report


if __name__ == '__main__':
    main()

"""Matching and feature loss against the ways of computing them that were not taken.

    python benchmarks/benchmark_losses.py feature [--queries 300] [--size 800 1333] [--images 2]
    python benchmarks/benchmark_losses.py record OUT.npy --teacher CONFIG CKPT --student CONFIG CKPT
    python benchmarks/benchmark_losses.py match OUT.npy

`feature` compares time, and memory beyond inputs and gradients, with masks (B, N, H, W).
`record` takes the matching costs of the first training batch between two trained detectors with as
many decoder stages, `match` solves them in every way that was tried. Ratios are of one run.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from benchmark_released import masked_error
from benchmark_steps import Footprint
from mmdet.registry import MODELS
from mmengine.config import Config, DictAction
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from mmdet_detrdistill.checkpoints.read import load_strictly
from mmdet_detrdistill.config.coco_format import resolve_coco_format
from mmdet_detrdistill.detectors import build_adapter
from mmdet_detrdistill.functional.boxes import clamp_to_image
from mmdet_detrdistill.functional.classes import soft_targets
from mmdet_detrdistill.functional.feature_kd import MaskOptions, feature_kd, target_masks
from mmdet_detrdistill.functional.linear_assignment import solve_chains
from mmdet_detrdistill.functional.matching import matching_cost

Row = Dict[str, Any]
Pairs = Tuple[np.ndarray, np.ndarray]


def per_query_error(
    student: List[Tensor], teacher: List[Tensor], queries: Tensor, quality: Tensor
) -> Tensor:
    """Eq. 9 as it is printed: one mask (H, W) per query, all of a level kept at once."""
    total = student[0].new_zeros(())
    for student_map, teacher_map in zip(student, teacher):
        masks = torch.einsum('bnc,bchw->bnhw', queries[0], teacher_map)  # Eq. 7
        weights = (quality[0][..., None, None] * masks.square()).sum(1) / queries.shape[2]
        total = total + (weights * (teacher_map - student_map).square().mean(1)).mean()
    return total


def our_error(
    student: List[Tensor], teacher: List[Tensor], queries: Tensor, quality: Tensor, options: Any
) -> Tensor:
    masks = target_masks(teacher, queries, quality, options=options)
    return feature_kd(student, teacher, masks)


def cost_of(function: Callable[[], Tensor], leaves: List[Tensor], repeats: int) -> Row:
    """CPU seconds (best of some), MiB beyond inputs and gradients at the peak, and the value."""
    seconds = []
    for repeat in range(repeats + 1):
        for leaf in leaves:
            leaf.grad = None
        if repeat == 0:
            with Footprint() as memory:
                value = function()
                forward, memory.peak = memory.peak, memory.live
                value.backward()
            gradients = sum(leaf.grad.nbytes for leaf in leaves)
            extra = max(forward, memory.peak - gradients)
            continue
        start = time.process_time()
        value = function()
        value.backward()
        seconds.append(time.process_time() - start)
    return dict(seconds=min(seconds), mib=extra / 2**20, value=value.item())


def feature(args: argparse.Namespace) -> List[Row]:
    """Both forms of the loss; `objects` of the queries weigh, or all (image without objects)."""
    torch.manual_seed(0)
    height, width = args.size
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64)]
    shapes = [(args.images, 256, h, w) for h, w in sizes]
    teacher = [torch.randn(shape) for shape in shapes]
    student = [torch.randn(shape, requires_grad=True) for shape in shapes]
    rows = []
    for form, stages, num_weighted, slow in (
        ('paper', 1, args.objects, per_query_error),
        ('paper, no objects', 1, args.queries, per_query_error),
        ('released', args.stages, args.queries, masked_error),
    ):
        queries = torch.randn(stages, args.images, args.queries, 256) / 16
        quality = torch.rand(stages, args.images, args.queries)
        quality[:, :, num_weighted:] = 0
        options = MaskOptions()
        if form == 'released':
            options = MaskOptions(similarity='cosine', mask='summed')
        inputs = student, teacher, queries, quality
        ours = cost_of(lambda i=inputs, o=options: our_error(*i, o), student, args.repeats)
        masks = cost_of(lambda i=inputs, s=slow: s(*i), student, args.repeats)
        apart = abs(ours['value'] - masks['value']) / abs(masks['value'])
        ratios = [masks[key] / ours[key] for key in ('seconds', 'mib')]
        rows.append(
            dict(form=form, ours=ours, masks=masks, ratios=ratios, relative_difference=apart)
        )
        print(
            f'{form:18s} ours {ours["seconds"]:.3f} s {ours["mib"]:6.1f} MiB | masks '
            f'{masks["seconds"]:.3f} s {masks["mib"]:6.1f} MiB | {ratios[0]:.1f} x time, '
            f'{ratios[1]:.1f} x memory | difference {apart:.1e}'
        )
    return rows


def record(args: argparse.Namespace) -> List[Row]:
    """Costs (L, B, N_s, N_t) float32 of the first training batch, written to `args.file`."""
    outputs = {}
    data = None
    for side in ('teacher', 'student'):
        path, checkpoint = getattr(args, side)
        config = Config.fromfile(path)
        config.merge_from_dict(args.cfg_options or {})
        resolve_coco_format(config)
        with DefaultScope.overwrite_default_scope('mmdet'):
            detector = MODELS.build(config.model).eval()
        load_strictly(detector, checkpoint, what=side)
        if data is None:
            config.train_dataloader.batch_size = args.images
            batch = next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
            data = detector.data_preprocessor(batch, training=True)
        adapter = build_adapter(detector, side)
        with torch.no_grad():
            outputs[side] = adapter.forward_pass(data['inputs'], data['data_samples']).outputs
    student_outputs, teacher_outputs = outputs['student'], outputs['teacher']
    targets = soft_targets(teacher_outputs.logits, 'sigmoid', 'sigmoid')
    target_boxes = clamp_to_image(teacher_outputs.boxes)
    cost = matching_cost(student_outputs.logits, student_outputs.boxes, targets, target_boxes)
    np.save(args.file, cost.numpy())
    print(f'{args.file}: {tuple(cost.shape)}')
    return [dict(shape=list(cost.shape))]


def one_by_one(chains: Sequence[Sequence[np.ndarray]]) -> List[List[Pairs]]:
    return [[linear_sum_assignment(cost) for cost in chain] for chain in chains]


def _chain(chain: Sequence[np.ndarray]) -> List[Pairs]:
    return [linear_sum_assignment(cost) for cost in chain]


def _sparse(chains: Sequence[Sequence[np.ndarray]]) -> List[List[Pairs]]:
    """All entries, shifted since an explicit zero would be no edge."""
    return [
        [min_weight_full_bipartite_matching(csr_matrix(c - c.min() + 1)) for c in chain]
        for chain in chains
    ]


def match(args: argparse.Namespace) -> List[Row]:
    """Seconds by the wall clock, best of some, the ways taking turns."""
    costs = np.load(args.file)[:, : args.images]
    chains = [list(np.ascontiguousarray(costs[:, image])) for image in range(costs.shape[1])]
    alone = [[cost] for chain in chains for cost in chain]
    flat = [cost for chain in chains for cost in chain]
    spawn = get_context('spawn')  # a fork may hang in a process that has threads
    with ThreadPoolExecutor(args.cores) as threads, ProcessPoolExecutor(
        args.cores, spawn
    ) as processes:
        ways: Dict[str, Callable[[], Any]] = {
            'SciPy, one by one': lambda: one_by_one(chains),
            'SciPy in threads': lambda: list(threads.map(_chain, chains)),
            'SciPy in processes': lambda: [list(processes.map(linear_sum_assignment, flat))],
            'SciPy sparse (LAPJVsp)': lambda: _sparse(chains),
            'compiled, cold, one thread': lambda: [solve_chains([one])[0] for one in alone],
            'compiled, one thread': lambda: [solve_chains([chain])[0] for chain in chains],
            'compiled, threads': lambda: solve_chains(chains),
        }
        skipped = set(args.skip)
        ways = {name: way for name, way in ways.items() if name not in skipped}
        taken: Dict[str, List[float]] = {name: [] for name in ways}
        totals: Dict[str, float] = {}
        for repeat in range(args.repeats + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                found = [pairs for solved in way() for pairs in solved]
                if repeat:
                    taken[name].append(time.perf_counter() - start)
                totals[name] = sum(c[p].sum(dtype=np.float64) for c, p in zip(flat, found))
    base = 'SciPy, one by one'
    rows = []
    for name, seconds in taken.items():
        ratio = min(taken[base]) / min(seconds)
        apart = abs(totals[name] - totals[base]) / abs(totals[base])
        rows.append(dict(way=name, seconds=seconds, ratio=ratio, relative_difference=apart))
        print(f'{name:28s} {min(seconds):8.4f} s {ratio:6.2f} x  cost differs by {apart:.1e}')
    return rows


def main(argv: Optional[Sequence[str]] = None) -> List[Row]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, help='write the rows here')
    commands = parser.add_subparsers(dest='command', required=True)
    on_maps = commands.add_parser('feature')
    on_maps.add_argument('--queries', type=int, default=300)
    on_maps.add_argument('--objects', type=int, default=7)
    on_maps.add_argument('--stages', type=int, default=6)
    on_maps.add_argument('--size', type=int, nargs=2, default=[800, 1333], metavar=('H', 'W'))
    on_maps.add_argument('--images', type=int, default=2)
    on_maps.add_argument('--repeats', type=int, default=3)
    recording = commands.add_parser('record')
    recording.add_argument('file')
    recording.add_argument('--teacher', nargs=2, required=True, metavar=('CONFIG', 'CKPT'))
    recording.add_argument('--student', nargs=2, required=True, metavar=('CONFIG', 'CKPT'))
    recording.add_argument('--images', type=int, default=8)
    recording.add_argument('--cfg-options', nargs='+', action=DictAction)
    matching = commands.add_parser('match')
    matching.add_argument('file')
    matching.add_argument('--images', type=int, default=8)
    matching.add_argument('--repeats', type=int, default=3)
    matching.add_argument('--cores', type=int, default=2)
    matching.add_argument('--skip', nargs='*', default=[], help='ways to leave out')
    args = parser.parse_args(argv)
    rows = dict(feature=feature, record=record, match=match)[args.command](args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == '__main__':
    main()

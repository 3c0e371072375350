"""Matching and feature loss against the ways of computing them that were not taken.

    python benchmarks/benchmark_losses.py feature [--queries 300] [--size 800 1333] [--images 2]
    python benchmarks/benchmark_losses.py record OUT.npz --teacher CONFIG CKPT --student CONFIG CKPT
    python benchmarks/benchmark_losses.py match OUT.npz

`feature` compares time, and memory beyond inputs and gradients, with masks (B, N, H, W).
`record` takes the matching costs of the first training batch between two trained detectors, whose
decoder stages it pairs as the loss does; `match` solves them in every way that was tried. Ratios
are of one run.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
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
from torch import Tensor

from mmdet_detrdistill.checkpoints.read import load_strictly
from mmdet_detrdistill.config.coco_format import resolve_coco_format
from mmdet_detrdistill.detectors import build_adapter, ground_truth
from mmdet_detrdistill.functional.boxes import best_giou, clamp_to_image
from mmdet_detrdistill.functional.classes import soft_targets
from mmdet_detrdistill.functional.feature_kd import MaskOptions, feature_kd, target_masks
from mmdet_detrdistill.functional.linear_assignment import solve_chains
from mmdet_detrdistill.functional.matching import matching_cost
from mmdet_detrdistill.functional.stages import pick_stages, stage_pairs

try:  # pip install lapx torch-linear-assignment: only compared, not needed
    import lap
except ImportError:
    lap = None
try:
    from torch_linear_assignment import batch_linear_assignment
except ImportError:
    batch_linear_assignment = None

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
    """Costs of the first training batch (P, B, N_s, N_t), P pairs of stages, and the teacher's
    queries (P, B, N_t) that have an object, `positive`, and those that lie near one, `hard`;
    written to `args.file`.
    """
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
        if args.queries:
            mix_queries(detector, args.queries)
        if data is None:
            config.train_dataloader.batch_size = args.images
            batch = next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
            data = detector.data_preprocessor(batch, training=True)
        adapter = build_adapter(detector, side)
        with torch.no_grad():
            outputs[side] = adapter.forward_pass(data['inputs'], data['data_samples']).outputs
        if side == 'teacher':
            positive = adapter.assign(outputs[side], data['data_samples']) >= 0
    student, teacher = outputs['student'], outputs['teacher']
    targets = soft_targets(teacher.logits, 'sigmoid', 'sigmoid')
    target_boxes = clamp_to_image(teacher.boxes)
    hard = (best_giou(target_boxes, ground_truth(data['data_samples'])[1]) > 0) & ~positive
    pairs = stage_pairs(len(student.logits), len(teacher.logits))
    own = (pick_stages(value, pairs.student) for value in (student.logits, student.boxes))
    other = [pick_stages(v, pairs.teacher) for v in (targets, target_boxes, positive, hard)]
    cost = matching_cost(*own, *other[:2])
    arrays = dict(cost=cost, positive=other[2], hard=other[3])
    np.savez(args.file, **{name: array.numpy() for name, array in arrays.items()})
    print(f'{args.file}: {tuple(cost.shape)}')
    return [dict(shape=list(cost.shape))]


def mix_queries(detector: torch.nn.Module, count: int) -> None:
    """Give a one-stage Deformable DETR `count` queries, spread as widely as the trained ones."""
    trained = detector.query_embedding.weight.detach()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, trained.shape[1], generator=generator)
    spread = trained[torch.arange(count) % len(trained)] + noise * trained.std(0)
    detector.query_embedding = torch.nn.Embedding.from_pretrained(spread)
    detector.num_queries = count


def problems(file: str, images: int, form: str) -> List[List[np.ndarray]]:
    """The chains of problems, one a stage, that a form of the loss solves for a batch."""
    recorded = np.load(file)
    cost, positive, hard = (recorded[name][:, :images] for name in ('cost', 'positive', 'hard'))
    everyone = np.ones_like(positive)
    sets = dict(joint=[everyone], paper=[positive, ~positive], hard=[positive, hard])[form]
    return [
        [np.ascontiguousarray(c[:, keep]) for c, keep in zip(cost[:, image], kept[:, image])]
        for kept in sets
        for image in range(cost.shape[1])
    ]


def _chain(chain: Sequence[np.ndarray]) -> List[Pairs]:
    return [linear_sum_assignment(cost) for cost in chain]


def _lapx(cost: np.ndarray) -> Pairs:
    wide = cost.shape[0] <= cost.shape[1]
    columns = lap.lapjvx(cost if wide else np.ascontiguousarray(cost.T), extend_cost=True)[1:]
    return columns if wide else columns[::-1]


def _torch(cost: np.ndarray) -> Pairs:
    columns = batch_linear_assignment(torch.from_numpy(cost)[None])[0].numpy()
    rows = (columns >= 0).nonzero()[0]
    return rows, columns[rows]


def match(args: argparse.Namespace) -> List[Row]:
    """Milliseconds per image, median of some: by the wall clock and of all threads' CPU time."""
    rows = []
    for form in args.forms:
        chains = problems(args.file, args.images, form)
        flat = [cost for chain in chains for cost in chain if cost.size]
        num_images = len(chains) // (1 if form == 'joint' else 2)
        with ThreadPoolExecutor(args.cores) as threads:
            ways: Dict[str, Callable[[], Any]] = {
                'SciPy, one by one': lambda c=chains: [_chain(chain) for chain in c],
                'SciPy in threads': lambda f=flat, t=threads: [
                    list(t.map(linear_sum_assignment, f))
                ],
                'ours (Numba), threads': lambda c=chains: solve_chains(c),
            }
            if lap is not None:
                ways['lapx in threads'] = lambda f=flat, t=threads: [list(t.map(_lapx, f))]
            if batch_linear_assignment is not None:
                ways['torch-linear-assignment'] = lambda f=flat: [[_torch(cost) for cost in f]]
            taken: Dict[str, List[Tuple[float, float]]] = {name: [] for name in ways}
            totals: Dict[str, float] = {}
            for repeat in range(args.repeats + 1):
                for name, way in ways.items():
                    start = time.perf_counter(), time.process_time()
                    found = [pairs for solved in way() for pairs in solved if len(pairs[0])]
                    if repeat:
                        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
                        taken[name].append((1000 * wall / num_images, 1000 * cpu / num_images))
                    totals[name] = sum(c[p].sum(dtype=np.float64) for c, p in zip(flat, found))
        base = totals['SciPy, one by one']
        print(f'{form}: {num_images} images, {len(flat)} problems')
        for name, times in taken.items():
            apart = abs(totals[name] - base) / abs(base)
            wall, cpu = (median(column) for column in zip(*times))
            row = dict(form=form, way=name, wall_ms=wall, cpu_ms=cpu, relative_difference=apart)
            rows.append(row)
            print(f'  {name:26s} {wall:8.1f} ms, CPU {cpu:8.1f} ms, cost differs by {apart:.1e}')
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
    recording.add_argument('--queries', type=int, help='mix the trained queries to so many')
    matching = commands.add_parser('match')
    matching.add_argument('file')
    matching.add_argument('--images', type=int, default=8)
    matching.add_argument('--repeats', type=int, default=3)
    matching.add_argument('--cores', type=int, default=2)
    matching.add_argument('--forms', nargs='+', default=['joint', 'paper', 'hard'])
    args = parser.parse_args(argv)
    rows = dict(feature=feature, record=record, match=match)[args.command](args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == '__main__':
    main()

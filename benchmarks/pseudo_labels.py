"""Measure which score threshold makes the best pseudo labels of a detector's predictions.

    python benchmarks/pseudo_labels.py CONFIG CHECKPOINT [--cfg-options KEY=VALUE ...]

On the validation images of the config, for each threshold: boxes per image, and precision, recall
and F1 of the kept boxes against the ground truth (same class, IoU at least 0.5, an object once).
"""

from argparse import ArgumentParser
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from mmdet.structures.bbox import bbox_overlaps
from mmengine.runner import Runner
from torch import Tensor

from mmdet_detrdistill.checkpoints.read import load_strictly
from mmdet_detrdistill.config.launch import add_config_options
from mmdet_detrdistill.config.read import read_config
from mmdet_detrdistill.detectors.registry import build_detector
from mmdet_detrdistill.hooks.fixed_images import objects_of
from mmdet_detrdistill.registry import scope_of

THRESHOLDS = tuple(step / 20 for step in range(2, 17))


def num_found(boxes: Tensor, labels: Tensor, gt_boxes: Tensor, gt_labels: Tensor) -> int:
    """Count the objects that boxes (n, 4), in order of their scores, find."""
    free = torch.ones(len(gt_boxes), dtype=torch.bool)
    overlaps = bbox_overlaps(boxes, gt_boxes) * (labels[:, None] == gt_labels)
    for row in overlaps:
        best = (row * free).argmax() if len(row) else None
        if best is not None and row[best] * free[best] >= 0.5:
            free[best] = False
    return int((~free).sum())


def measure(samples: List[Tuple[Tensor, ...]]) -> List[Dict[str, float]]:
    """Compute a row per threshold from (scores, boxes, labels, gt_boxes, gt_labels) per image."""
    rows = []
    total = sum(len(sample[3]) for sample in samples)
    for threshold in THRESHOLDS:
        kept = found = 0
        for scores, boxes, labels, gt_boxes, gt_labels in samples:
            chosen = scores >= threshold
            kept += int(chosen.sum())
            found += num_found(boxes[chosen], labels[chosen], gt_boxes, gt_labels)
        precision, recall = found / max(kept, 1), found / max(total, 1)
        f1 = 2 * found / max(kept + total, 1)
        values = (threshold, kept / len(samples), precision, recall, f1)
        rows.append(dict(zip(('threshold', 'boxes', 'precision', 'recall', 'F1'), values)))
    return rows


@torch.no_grad()
def main(argv: Optional[Sequence[str]] = None) -> List[Dict[str, float]]:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add_config_options(parser)
    parser.add_argument('checkpoint')
    args = parser.parse_args(argv)
    config = read_config(args)
    with scope_of(config):
        detector = build_detector(config.model, 'teacher').eval()
        load_strictly(detector, args.checkpoint)
        loader = Runner.build_dataloader(config.val_dataloader)
    samples: List[Tuple[Tensor, ...]] = []
    infos = (loader.dataset.get_data_info(index) for index in range(len(loader.dataset)))
    for batch in loader:
        data = detector.data_preprocessor(batch)
        for sample in detector.predict(data['inputs'], data['data_samples'], rescale=False):
            predicted, objects = sample.pred_instances, objects_of(next(infos), sample)
            samples.append(
                (predicted.scores, predicted.bboxes, predicted.labels)
                + (objects.bboxes, objects.labels)
            )
    rows = measure(samples)
    print('| ' + ' | '.join(rows[0]) + ' |\n|' + '---|' * len(rows[0]))
    for row in rows:
        print('| ' + ' | '.join(f'{value:.2f}' for value in row.values()) + ' |')
    return rows


if __name__ == '__main__':
    main()

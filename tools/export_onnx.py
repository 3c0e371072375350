"""Write a trained student as an ONNX graph, and compare what onnxruntime makes of it.

    python tools/export_onnx.py CONFIG CHECKPOINT --size 800 1216 --out student.onnx

Needs `pip install onnx onnxruntime`. CONFIG and CHECKPOINT are those of the distillation, or plain
ones. Input `images` (1, 3, H, W) of this size, normalised as the config's data_preprocessor does
it. Outputs of the last decoder stage: `logits` (1, N, C) before the activation, `boxes` (1, N, 4)
as (cx, cy, w, h) in [0, 1].
"""

import argparse
import inspect
import os
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from mmdet_detrdistill.checkpoints.export import build_student
from mmdet_detrdistill.config.launch import add_config_options
from mmdet_detrdistill.config.read import read_config
from mmdet_detrdistill.detectors.levels import num_channels

OPSET = 16  # the first with GridSample, which deformable attention becomes
TOLERANCE = 1e-3


class Predictions(nn.Module):
    """A detector as a function of images alone: MMDetection's own graph, without NMS or top-k.

    Args:
        detector: DETR-like, of MMDetection.
        size: (H, W) of the images, all of them image.
    """

    def __init__(self, detector: nn.Module, size: Sequence[int]) -> None:
        super().__init__()
        self.detector = detector
        self.size = tuple(size)

    def forward(self, images: Tensor) -> Tuple[Tensor, Tensor]:
        """`logits` (1, N, C) and `boxes` (1, N, 4) of the last stage."""
        sample = DetDataSample(metainfo=dict(img_shape=self.size, batch_input_shape=self.size))
        predicted = self.detector(images, [sample], mode='tensor')
        return predicted[0][-1], predicted[1][-1]


@torch.no_grad()
def export(detector: nn.Module, size: Sequence[int], path: str) -> float:
    """Write the graph if onnxruntime agrees with PyTorch on other images than it was traced by.

    Returns:
        The largest difference.

    Raises:
        RuntimeError: whatever PyTorch's exporter cannot do.
        ValueError: the graph differs; nothing is left at `path` that was not there before.
    """
    import onnxruntime

    model = Predictions(detector, size).eval()
    first, second = (torch.randn(1, num_channels(detector), *size) for _ in range(2))
    names: Dict[str, Any] = dict(input_names=['images'], output_names=['logits', 'boxes'])
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
        names['dynamo'] = False  # PyTorch's older exporter, by tracing, where there is a choice
    unfinished = f'{path}.unfinished'
    try:
        torch.onnx.export(model, (first,), unfinished, opset_version=OPSET, **names)
        session = onnxruntime.InferenceSession(unfinished, providers=['CPUExecutionProvider'])
        pairs = zip(session.run(None, {'images': second.numpy()}), model(second))
        difference = max(float((torch.from_numpy(ours) - own).abs().max()) for ours, own in pairs)
        if not difference < TOLERANCE:
            raise ValueError(
                f'the graph differs from PyTorch by {difference:.2g}, so that {path} was not '
                f'written. A feature level of one pixel does that: at {tuple(size)} pixels the '
                'coarsest may be so small; try a larger --size'
            )
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)
    return difference


def main(argv: Optional[Sequence[str]] = None) -> float:
    """Export, compare and return the largest difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_options(parser)
    parser.add_argument('checkpoint')
    parser.add_argument('--size', type=int, nargs=2, required=True, metavar=('H', 'W'))
    parser.add_argument('--out', default='student.onnx')
    arguments = parser.parse_args(argv)
    student = build_student(read_config(arguments), arguments.checkpoint)
    try:
        difference = export(student, arguments.size, arguments.out)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print(f'wrote {arguments.out}; onnxruntime and PyTorch agree to {difference:.2g}')
    return difference


if __name__ == '__main__':
    main()

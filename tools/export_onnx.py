"""Write a trained student as an ONNX graph, and compare what onnxruntime makes of it.

    python tools/export_onnx.py CONFIG CHECKPOINT --size 800 1216 --out student.onnx

Needs `pip install onnx onnxruntime`. CONFIG and CHECKPOINT are those of the distillation, or plain
ones. Input `images` (1, 3, H, W) of this size, normalised as the config's data_preprocessor does
it. Outputs of the last decoder stage: `logits` (1, N, C) before the activation, `boxes` (1, N, 4)
as (cx, cy, w, h) in [0, 1].
"""

import argparse
import inspect
from typing import Optional, Sequence, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import DefaultScope
from torch import Tensor, nn

import mmdet_detrdistill  # noqa: F401  registers everything
from mmdet_detrdistill.checkpoints.export import student_config, student_state_dict
from mmdet_detrdistill.checkpoints.read import load_checkpoint_file, load_state_strictly
from mmdet_detrdistill.config.launch import add_config_options
from mmdet_detrdistill.config.read import read_config

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
    """Write the graph; the largest difference of onnxruntime on other images than it was traced by.

    Raises:
        RuntimeError: whatever PyTorch's exporter cannot do.
    """
    import onnxruntime

    model = Predictions(detector, size).eval()
    first, second = (torch.randn(1, 3, *size) for _ in range(2))
    # PyTorch's older exporter, by tracing, where there is a choice
    choice = 'dynamo' in inspect.signature(torch.onnx.export).parameters
    torch.onnx.export(
        model,
        (first,),
        path,
        opset_version=OPSET,
        input_names=['images'],
        output_names=['logits', 'boxes'],
        **(dict(dynamo=False) if choice else {}),
    )
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    found = session.run(None, {'images': second.numpy()})
    pairs = zip(found, model(second))
    return max(float((torch.from_numpy(ours) - own).abs().max()) for ours, own in pairs)


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
    config = student_config(read_config(arguments))
    weights = student_state_dict(load_checkpoint_file(arguments.checkpoint))
    with DefaultScope.overwrite_default_scope('mmdet'):
        student = MODELS.build(config.model)
    load_state_strictly(student, weights, arguments.checkpoint, what='student')
    difference = export(student, arguments.size, arguments.out)
    if not difference < TOLERANCE:
        raise SystemExit(f'{arguments.out} differs from PyTorch by {difference:.2g}')
    print(f'wrote {arguments.out}; onnxruntime and PyTorch agree to {difference:.2g}')
    return difference


if __name__ == '__main__':
    main()

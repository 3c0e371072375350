"""Take a config as it stands, shrink it by overrides, and make real training steps with it."""

import copy
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_detrdistill.config.load import detector_config

SIZES = ((64, 96), (56, 72))  # (h, w); the second image is padded


@lru_cache(maxsize=None)
def _parsed(path: str) -> Config:
    return Config.fromfile(path)


def load(path: Any) -> Config:
    """A fresh copy of the config at `path`; what it imports (this package) is imported."""
    return copy.deepcopy(_parsed(str(path)))


def distils(config: Config) -> bool:
    """Whether `config` trains a student with a teacher."""
    return config.get('model', {}).get('type') == 'DETRDistill'


def shrunk_options(detector: Dict[str, Any]) -> Dict[str, Any]:
    """Dotted overrides that make a detector config small and keep what distinguishes it.

    Depths of backbones and widths of transformers stay. Layers are divided by three, so that the
    ratio of a 6-layer teacher and a 3-layer student stays; channels of backbone and neck by the
    same factor, so that a neck that does not fit its backbone still fails. Nothing is downloaded.
    """
    backbone = detector['backbone']
    options: Dict[str, Any] = {'backbone.init_cfg': None}
    if backbone['type'] == 'ResNet':
        factor = backbone.get('base_channels', 64) // 8  # the neck must fit before and after
        widths = [channels // factor for channels in detector['neck']['in_channels']]
        options.update({'backbone.base_channels': 8, 'neck.in_channels': widths})
    for part in ('encoder', 'decoder'):
        options[f'{part}.num_layers'] = max(1, detector[part]['num_layers'] // 3)
        options[f'{part}.layer_cfg.ffn_cfg.feedforward_channels'] = 32
    options['num_queries'] = 20
    if 'dn_cfg' in detector:
        options['dn_cfg.group_cfg.num_dn_queries'] = 6
    return options


def shrink(config: Config, folder: Path) -> Config:
    """Shrink a config in place; a teacher gets a checkpoint of random weights in `folder`."""
    if not distils(config):
        overrides = {f'model.{key}': value for key, value in shrunk_options(config.model).items()}
        config.merge_from_dict(overrides)
        return config
    student = shrunk_options(config.model.architecture)
    config.merge_from_dict({f'model.architecture.{key}': value for key, value in student.items()})
    teacher = config.model.teacher
    if isinstance(teacher, str):
        teacher = dict(cfg_path=teacher)
    if 'type' in teacher:
        own = Config(dict(model=teacher))
        own.merge_from_dict({f'model.{k}': v for k, v in shrunk_options(teacher).items()})
        config.model.teacher = own.model
    else:
        options = {**(teacher.get('options') or {}), **shrunk_options(detector_config(teacher))}
        config.model.teacher = dict(cfg_path=teacher['cfg_path'], options=options)
    config.model.teacher_ckpt = save_random_teacher(config.model.teacher, folder)
    return config


def save_random_teacher(teacher: Dict[str, Any], folder: Path) -> str:
    """Path of a checkpoint that fits a teacher config, written on first use."""
    model_config = detector_config(teacher)
    digest = hashlib.sha1(str(model_config).encode()).hexdigest()[:12]
    path = Path(folder) / f'teacher_{digest}.pth'
    if not path.exists():
        torch.save(dict(meta={}, state_dict=build(model_config, seed=7).state_dict()), path)
    return str(path)


def build(model_config: Dict[str, Any], seed: int = 0) -> nn.Module:
    """Build and initialise; the queries of a fresh head are spread, or matching is a tie."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(model_config)
        model.init_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'bbox_head' in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def build_from_config(config: Config, seed: int = 0) -> Tuple[nn.Module, OptimWrapper]:
    """The model of a config, in training mode, and the config's own optimizer for it."""
    model = build(config.model, seed).train()
    with DefaultScope.overwrite_default_scope('mmdet'):
        return model, build_optim_wrapper(model, config.optim_wrapper)


def synthetic_batch(
    num_boxes: Sequence[int] = (3, 0),
    num_classes: int = 80,
    seed: int = 0,
    sizes: Sequence[Tuple[int, int]] = SIZES,
) -> Dict[str, List[Any]]:
    """A batch as a data loader gives it: uint8 images of unequal size, `num_boxes` objects each."""
    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for index, (count, (height, width)) in enumerate(zip(num_boxes, sizes)):
        inputs.append(
            torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        )
        start = torch.rand(count, 2, generator=generator) * 0.5
        extent = 0.2 + torch.rand(count, 2, generator=generator) * 0.3
        scale = torch.tensor([width, height], dtype=torch.float32)
        objects = InstanceData(
            bboxes=torch.cat((start, start + extent), -1) * scale.repeat(2),
            labels=torch.randint(0, num_classes, (count,), generator=generator),
        )
        shapes = dict(img_shape=(height, width), ori_shape=(height, width))
        sample = DetDataSample(
            metainfo=dict(img_id=index, img_path=f'{index}.png', scale_factor=(1.0, 1.0), **shapes)
        )
        sample.gt_instances = objects
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


class Step(NamedTuple):
    """What one optimisation step did.

    Attributes:
        log_vars: as MMEngine logs them.
        gradients: sum of absolute values of the gradient, by parameter.
    """

    log_vars: Dict[str, Tensor]
    gradients: Dict[str, float]


def step(model: nn.Module, optim_wrapper: OptimWrapper, batch: Dict[str, List[Any]]) -> Step:
    """`model.train_step`, watched from outside."""
    gradients: Dict[str, float] = {}

    def watch(name: str) -> Any:
        def note(gradient: Tensor) -> None:
            gradients[name] = float(gradient.abs().sum())

        return note

    handles = [
        parameter.register_hook(watch(name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        log_vars = model.train_step(batch, optim_wrapper)
    finally:
        for handle in handles:
            handle.remove()
    return Step(log_vars, gradients)

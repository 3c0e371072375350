"""Tiny versions of MMDetection's own detectors, made of its stock configs by overrides alone."""

import logging
from copy import deepcopy
from functools import lru_cache
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor

STOCK = {
    'detr': 'detr/detr_r50_8xb2-150e_coco.py',
    'conditional': 'conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
    'dab': 'dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    'dab_patterns': 'dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    'deformable': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'deformable_refine': 'deformable_detr/deformable-detr-refine_r50_16xb2-50e_coco.py',
    'deformable_two_stage': 'deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py',
    'dino': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'ddq': 'ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py',
}
VARIANTS = tuple(STOCK)
NUM_CLASSES = 3


stock_config = lru_cache(maxsize=None)(get_config)  # which reads MMDetection's whole index


def tiny_config(
    variant: str,
    num_queries: int = 12,
    num_layers: int = 2,
    width: Optional[int] = None,
    strides: Optional[Sequence[int]] = None,
) -> ConfigDict:
    """The stock model config with a small backbone, few layers and queries, 3 classes.

    Args:
        width: embedding width instead of 256; only DETR, DAB, one-stage Deformable and DDQ can.
        strides: feature levels instead of (8, 16, 32, 64), for multi-scale detectors.
    """
    model = deepcopy(stock_config(f'mmdet::{STOCK[variant]}').model)
    if strides is not None:
        _set_strides(model, strides)
    if width is not None:
        model.bbox_head.embed_dims = width
        _set_width(model, width)
    model.backbone = dict(
        type='ResNet',
        depth=18,
        base_channels=8,
        num_stages=4,
        out_indices=tuple(model.backbone.out_indices),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
    )
    widths = (8, 16, 32, 64)
    model.neck.in_channels = [widths[i] for i in model.backbone.out_indices]
    model.encoder.num_layers = 1
    model.decoder.num_layers = num_layers
    for part in (model.encoder, model.decoder):
        part.layer_cfg.ffn_cfg.feedforward_channels = 64
    model.bbox_head.num_classes = NUM_CLASSES
    model.num_queries = num_queries
    if variant == 'dab_patterns':
        model.num_patterns = 2
    if 'dn_cfg' in model:
        model.dn_cfg.group_cfg.num_dn_queries = 6
    return model


def _set_strides(model: ConfigDict, strides: Sequence[int]) -> None:
    """Backbone levels up to stride 32, and the neck's extra ones beyond."""
    model.backbone.out_indices = [i for i in range(4) if 4 * 2**i in strides]
    model.neck.num_outs = model.num_feature_levels = len(strides)
    model.encoder.layer_cfg.self_attn_cfg.num_levels = len(strides)
    model.decoder.layer_cfg.cross_attn_cfg.num_levels = len(strides)


def _set_width(config: Dict[str, Any], width: int) -> None:
    """Every embedding width in a nested config; positional encodings have half of it."""
    for key, value in config.items():
        if key in ('embed_dims', 'out_channels'):
            config[key] = width
        elif key == 'num_feats':
            config[key] = width // 2
        elif isinstance(value, dict):
            _set_width(value, width)


def build(config: Dict[str, Any], seed: int = 0) -> torch.nn.Module:
    """Build and initialise a detector; equal seeds give equal weights."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.manual_seed(seed)
        model = MODELS.build(config)
        logging.disable(logging.INFO)  # MMEngine prints a line per parameter
        model.init_weights()
        logging.disable(logging.NOTSET)
    # Fresh DETR heads predict the same box for every query: spread them, or matching is a tie.
    generator = torch.Generator().manual_seed(seed)
    head = model.bbox_head if hasattr(model, 'bbox_head') else model.roi_head
    for parameter in head.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data.add_(0.05 * noise)
    return model


def tiny(variant: str, seed: int = 0, **options: Any) -> torch.nn.Module:
    """A tiny detector of a variant."""
    return build(tiny_config(variant, **options), seed)


def sample_of(
    img_shape: Tuple[int, int],
    batch_shape: Tuple[int, int],
    boxes_abs_xyxy: Sequence[Sequence[float]],
    labels: Sequence[int],
    name: str = 'image.png',
) -> DetDataSample:
    """A data sample as `PackDetInputs` and the preprocessor leave it."""
    sample = DetDataSample(
        metainfo=dict(
            img_shape=img_shape,
            ori_shape=img_shape,
            batch_input_shape=batch_shape,
            pad_shape=batch_shape,
            scale_factor=(1.0, 1.0),
            img_path=name,
            img_id=0,
        )
    )
    objects = InstanceData()
    objects.bboxes = torch.tensor(boxes_abs_xyxy, dtype=torch.float32).reshape(-1, 4)
    objects.labels = torch.tensor(labels, dtype=torch.long)
    sample.gt_instances = objects
    return sample


def batch(padded: bool = True, empty: str = 'none', seed: int = 0) -> Tuple[Tensor, List[Any]]:
    """Two images 96 x 128, the first smaller when `padded`; `empty`: 'none', 'one', 'all'."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 96, 128, generator=generator)
    first = (80, 100) if padded else (96, 128)
    if padded:
        images[0, :, 80:] = 0
        images[0, :, :, 100:] = 0
    objects = [
        ([[10, 12, 60, 50], [30, 20, 90, 70]], [0, 2]),
        ([[5, 5, 40, 80], [64, 10, 120, 60], [50, 40, 70, 90]], [1, 1, 0]),
    ]
    if empty in ('one', 'all'):
        objects[0] = ([], [])
    if empty == 'all':
        objects[1] = ([], [])
    samples = [
        sample_of(first, (96, 128), *objects[0], name='first.png'),
        sample_of((96, 128), (96, 128), *objects[1], name='second.png'),
    ]
    return images, samples

"""Tiny detectors of the families that have an adapter of their own: stock ones and stand-ins."""

import os
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from mmdet.datasets import CocoDataset

from tests.tiny_detectors import NUM_CLASSES, build, stock_config, tiny_config

WORDS = ('cat', 'dog', 'traffic', 'light', 'small', 'red', 'bird')
COCO = {word for name in CocoDataset.METAINFO['classes'] for word in name.split()}
SHAPES = ('circle', 'hexagon', 'ring', 'frame', 'square', 'triangle', 'star', 'cross')


@lru_cache(maxsize=None)
def language_model() -> str:
    """Folder of a random BERT of one narrow layer with a vocabulary of a few words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = mkdtemp(prefix='tiny-bert-')
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?']
    vocabulary = Path(folder) / 'vocab.txt'
    words = [*special, *sorted({'television', *WORDS, *SHAPES, *COCO})]
    vocabulary.write_text('\n'.join(words))
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=300,
    )
    BertModel(config).save_pretrained(folder)
    os.environ['TOKENIZERS_PARALLELISM'] = 'false'
    return folder


#: overrides that make the stock Grounding DINO small
GROUNDING_DINO = 'mmdet::grounding_dino/grounding_dino_swin-t_pretrain_obj365_goldg_cap4m.py'
GROUNDING_DINO_OPTIONS = {
    'backbone.embed_dims': 24,
    'backbone.depths': [1, 1, 1, 1],
    'backbone.init_cfg': None,
    'neck.in_channels': [48, 96, 192],
    'encoder.num_layers': 1,
    'encoder.num_cp': 0,
    'encoder.fusion_layer_cfg.embed_dim': 64,
    'encoder.layer_cfg.ffn_cfg.feedforward_channels': 32,
    'encoder.text_layer_cfg.ffn_cfg.feedforward_channels': 32,
    'decoder.num_layers': 2,
    'decoder.layer_cfg.ffn_cfg.feedforward_channels': 32,
    'num_queries': 15,
}


def grounding_dino(
    seed: int = 0, mm: bool = False, num_queries: int = 15, **options: Any
) -> torch.nn.Module:
    """Stock Grounding DINO, or MM-Grounding-DINO, with the tiny BERT."""
    path = (
        'mmdet::mm_grounding_dino/grounding_dino_swin-t_pretrain_obj365.py'
        if mm
        else GROUNDING_DINO
    )
    config = deepcopy(stock_config(path))
    small = {**GROUNDING_DINO_OPTIONS, 'language_model.name': language_model(), **options}
    small['num_queries'] = num_queries
    config.merge_from_dict({f'model.{name}': value for name, value in small.items()})
    return build(config.model, seed)


def sparse_rcnn(seed: int = 0, num_queries: int = 12) -> torch.nn.Module:
    """Stock Sparse R-CNN with two stages and 3 classes."""
    model = stock_config('mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py').model
    model = deepcopy(model)
    model.backbone = tiny_config('dino', strides=(4, 8, 16, 32)).backbone
    model.neck.in_channels = [8, 16, 32, 64]
    model.rpn_head.num_proposals = model.test_cfg.rcnn.max_per_img = num_queries
    head = model.roi_head
    head.num_stages, head.stage_loss_weights = 2, [1, 1]
    head.bbox_head, model.train_cfg.rcnn = head.bbox_head[:2], model.train_cfg.rcnn[:2]
    for stage in head.bbox_head:
        stage.num_classes, stage.feedforward_channels = NUM_CLASSES, 64
        stage.dynamic_conv_cfg.feat_channels = 4
    return build(model, seed)

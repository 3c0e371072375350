"""Tiny detectors of the families that have an adapter of their own: stock ones and stand-ins."""

import os
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from tests.tiny_detectors import build, get_config

WORDS = ('cat', 'dog', 'traffic', 'light', 'small', 'red', 'bird')
SHAPES = ('circle', 'hexagon', 'ring', 'frame', 'square', 'triangle', 'star', 'cross')


@lru_cache(maxsize=None)
def language_model() -> str:
    """Folder of a random BERT of one narrow layer with a vocabulary of a few words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = mkdtemp(prefix='tiny-bert-')
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?']
    vocabulary = Path(folder) / 'vocab.txt'
    vocabulary.write_text('\n'.join([*special, *WORDS, *SHAPES]))
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(special) + len(WORDS + SHAPES),
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
    config = get_config(path)
    small = {**GROUNDING_DINO_OPTIONS, 'language_model.name': language_model(), **options}
    small['num_queries'] = num_queries
    config.merge_from_dict({f'model.{name}': value for name, value in small.items()})
    return build(config.model, seed)

"""Adapters: the one place, with `injection`, that knows detector families."""

from .base import DetectorAdapter, ground_truth, picture_names
from .ddq import DDQAdapter
from .outputs import DecoderOutputs, EncoderState, Walk
from .registry import build_adapter, register_adapter

__all__ = [
    'DDQAdapter',
    'DecoderOutputs',
    'DetectorAdapter',
    'EncoderState',
    'Walk',
    'build_adapter',
    'ground_truth',
    'picture_names',
    'register_adapter',
]

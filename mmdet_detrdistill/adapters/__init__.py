"""Adapters: the one place, with `injection`, that knows detector families."""

from .base import DetectorAdapter, ground_truth
from .ddq import DDQAdapter
from .finite import name_non_finite_picture
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
    'name_non_finite_picture',
    'register_adapter',
]

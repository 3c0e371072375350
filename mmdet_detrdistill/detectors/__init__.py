"""Adapters: the one place, with `losses.injection`, that knows detector families."""

from .base import DetectorAdapter, ground_truth
from .ddq import DDQAdapter
from .non_finite import name_non_finite_image
from .outputs import DecoderOutputs, EncoderState, ForwardPass
from .registry import build_adapter, register_adapter

__all__ = [
    'DDQAdapter',
    'DecoderOutputs',
    'DetectorAdapter',
    'EncoderState',
    'ForwardPass',
    'build_adapter',
    'ground_truth',
    'name_non_finite_image',
    'register_adapter',
]

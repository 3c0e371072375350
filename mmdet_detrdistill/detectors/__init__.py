"""Adapters: the one place, with `losses.injection`, that knows detector families."""

from .base import DetectorAdapter, ground_truth
from .codetr import CoDETRAdapter
from .ddq import DDQAdapter
from .grounding_dino import GroundingDINOAdapter
from .non_finite import name_non_finite_image
from .outputs import DecoderOutputs, EncoderState, ForwardPass
from .registry import build_adapter, build_detector, register_adapter
from .rtdetr import RTDETRAdapter
from .sparse_rcnn import SparseRCNNAdapter

__all__ = [
    'CoDETRAdapter',
    'DDQAdapter',
    'DecoderOutputs',
    'DetectorAdapter',
    'EncoderState',
    'ForwardPass',
    'GroundingDINOAdapter',
    'RTDETRAdapter',
    'SparseRCNNAdapter',
    'build_adapter',
    'build_detector',
    'ground_truth',
    'name_non_finite_image',
    'register_adapter',
]

"""Distillation losses: thin registered modules around `functional`."""

from .aligned_kd import AlignedKDLoss
from .assign_kd import AssignKDLoss
from .base import DistillLoss
from .feature_kd import FeatureKDLoss
from .logits_kd import LogitsKDLoss

__all__ = ['AlignedKDLoss', 'AssignKDLoss', 'DistillLoss', 'FeatureKDLoss', 'LogitsKDLoss']

"""DETRDistill for the DETR family of MMDetection 3.x; importing it registers everything."""

from . import compat, registry  # compat first: checks the installation, lets MMRazor import
from .adapters import build_adapter, register_adapter
from .algorithm import DETRDistill
from .distill import distill
from .distiller import DETRDistiller
from .hooks import (
    AssignmentStabilityHook,
    IterationSeedHook,
    LossWeightScheduleHook,
    PairPicturesHook,
    SafeCheckpointHook,
    StudentCheckpointHook,
    TeacherCheckHook,
    TeacherQueryInjectionHook,
)
from .injection import InjectionRule, TeacherBoxInjection, TeacherQueryInjection
from .losses import AlignedKDLoss, AssignKDLoss, FeatureKDLoss, LogitsKDLoss

__version__ = '0.1.0'

__all__ = [
    'AlignedKDLoss',
    'AssignKDLoss',
    'AssignmentStabilityHook',
    'DETRDistill',
    'DETRDistiller',
    'FeatureKDLoss',
    'InjectionRule',
    'IterationSeedHook',
    'LogitsKDLoss',
    'LossWeightScheduleHook',
    'PairPicturesHook',
    'SafeCheckpointHook',
    'StudentCheckpointHook',
    'TeacherBoxInjection',
    'TeacherCheckHook',
    'TeacherQueryInjection',
    'TeacherQueryInjectionHook',
    'build_adapter',
    'compat',
    'distill',
    'register_adapter',
    'registry',
]

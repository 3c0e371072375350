"""DETRDistill for the DETR family of MMDetection 3.x; importing it registers everything.

Without any of the OpenMMLab packages only `mmdet_detrdistill.functional` can be used.
"""

from importlib.util import find_spec

__version__ = '0.1.0'

if any(find_spec(name) is not None for name in ('mmengine', 'mmcv', 'mmdet', 'mmrazor')):
    from . import compat, registry  # isort: skip  (compat first: it lets MMRazor import)
    from .api import distill
    from .detectors import build_adapter, register_adapter
    from .distillation import DETRDistill, DETRDistiller
    from .hooks import (
        AdaptiveLossWeightHook,
        AssignmentStabilityHook,
        IterationSeedHook,
        LossWeightScheduleHook,
        PairPicturesHook,
        SafeCheckpointHook,
        StudentCheckpointHook,
        TeacherCheckHook,
        TeacherQueryInjectionHook,
    )
    from .losses import AlignedKDLoss, AssignKDLoss, FeatureKDLoss, LogitsKDLoss
    from .losses.injection import (
        GroundTruthBoxInjection,
        InjectionRule,
        RandomBoxInjection,
        TeacherBoxInjection,
        TeacherQueryInjection,
    )

    __all__ = [
        'AdaptiveLossWeightHook',
        'AlignedKDLoss',
        'AssignKDLoss',
        'AssignmentStabilityHook',
        'DETRDistill',
        'DETRDistiller',
        'FeatureKDLoss',
        'GroundTruthBoxInjection',
        'InjectionRule',
        'IterationSeedHook',
        'LogitsKDLoss',
        'LossWeightScheduleHook',
        'PairPicturesHook',
        'RandomBoxInjection',
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

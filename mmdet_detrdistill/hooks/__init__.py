"""MMEngine hooks: each changes a flag, a weight or a checkpoint at one point of the training."""

from .adaptive_weight import AdaptiveLossWeightHook
from .assignment_stability import AssignmentStabilityHook
from .checkpoint import SafeCheckpointHook
from .iteration_seed import IterationSeedHook
from .schedule import LossWeightScheduleHook, TeacherQueryInjectionHook
from .student_checkpoint import StudentCheckpointHook
from .teacher_check import TeacherCheckHook
from .visualization import PairPicturesHook

__all__ = [
    'AdaptiveLossWeightHook',
    'AssignmentStabilityHook',
    'IterationSeedHook',
    'LossWeightScheduleHook',
    'PairPicturesHook',
    'SafeCheckpointHook',
    'StudentCheckpointHook',
    'TeacherCheckHook',
    'TeacherQueryInjectionHook',
]

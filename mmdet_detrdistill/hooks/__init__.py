"""MMEngine hooks: each changes a flag, a weight or a checkpoint at a moment."""

from .assignment_stability import AssignmentStabilityHook
from .injection import TeacherQueryInjectionHook
from .teacher_check import TeacherCheckHook

__all__ = ['AssignmentStabilityHook', 'TeacherCheckHook', 'TeacherQueryInjectionHook']

"""MMEngine hooks: each changes a flag, a weight or a checkpoint at a moment."""

from .injection import TeacherQueryInjectionHook
from .teacher_check import TeacherCheckHook

__all__ = ['TeacherCheckHook', 'TeacherQueryInjectionHook']

"""The algorithm, the distiller, and the frozen teacher."""

from .algorithm import DETRDistill
from .distiller import DETRDistiller
from .optimizer import StudentOptimWrapperConstructor
from .teacher import TeacherPass
from .val_loop import SingleTeacherDistillValLoop

__all__ = [
    'DETRDistill',
    'DETRDistiller',
    'SingleTeacherDistillValLoop',
    'StudentOptimWrapperConstructor',
    'TeacherPass',
]

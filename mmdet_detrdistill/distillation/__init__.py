"""The algorithm, the distiller, and the frozen teacher."""

from .algorithm import DETRDistill
from .distiller import DETRDistiller
from .teacher import TeacherPass

__all__ = ['DETRDistill', 'DETRDistiller', 'TeacherPass']

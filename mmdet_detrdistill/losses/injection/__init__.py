"""Rules that make decoder inputs of the student from the teacher's queries or boxes."""

from .base import InjectionRule, build_injection
from .teacher_boxes import TeacherBoxInjection
from .teacher_queries import TeacherQueryInjection

__all__ = ['InjectionRule', 'TeacherBoxInjection', 'TeacherQueryInjection', 'build_injection']

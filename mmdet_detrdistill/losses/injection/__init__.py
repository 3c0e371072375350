"""Rules that put what the teacher looked for into the student's decoder inputs."""

from .base import InjectionRule, build_injection
from .teacher_boxes import TeacherBoxInjection
from .teacher_queries import TeacherQueryInjection

__all__ = ['InjectionRule', 'TeacherBoxInjection', 'TeacherQueryInjection', 'build_injection']

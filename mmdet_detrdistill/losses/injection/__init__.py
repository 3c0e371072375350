"""Rules that make decoder inputs: of the student, or of both sides at the same boxes."""

from .base import InjectionRule, build_injection
from .shared_boxes import GroundTruthBoxInjection, RandomBoxInjection, SharedBoxInjection
from .teacher_boxes import TeacherBoxInjection
from .teacher_queries import TeacherQueryInjection

__all__ = [
    'GroundTruthBoxInjection',
    'InjectionRule',
    'RandomBoxInjection',
    'SharedBoxInjection',
    'TeacherBoxInjection',
    'TeacherQueryInjection',
    'build_injection',
]

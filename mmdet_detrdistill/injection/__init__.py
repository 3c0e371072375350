"""Rules that put the teacher's queries into the student's decoder inputs."""

from .teacher_queries import TeacherQueryInjection

__all__ = ['TeacherQueryInjection']

"""One batch as seen by both detectors: what every distillation loss receives."""

from functools import cached_property
from typing import Any, Callable, Dict, List, Tuple

from torch import Tensor

from .adapters import DecoderOutputs, DetectorAdapter, Walk, ground_truth

Injection = Callable[..., Dict[str, Tensor]]


class DistillPair:
    """Both walks over a batch, and what is derived from them once and only when asked for.

    Args:
        student: adapter of the student.
        teacher: adapter of the teacher.
        student_walk: its pass over the batch.
        teacher_walk: likewise, made under `no_grad`.
        samples: B `DetDataSample`s with ground truth.
    """

    def __init__(
        self,
        student: DetectorAdapter,
        teacher: DetectorAdapter,
        student_walk: Walk,
        teacher_walk: Walk,
        samples: List[Any],
    ) -> None:
        self.student, self.teacher = student, teacher
        self.student_walk, self.teacher_walk = student_walk, teacher_walk
        self.samples = samples
        self._replays: Dict[int, DecoderOutputs] = {}

    @cached_property
    def ground_truth(self) -> Tuple[List[Tensor], List[Tensor], Tensor]:
        """Labels and boxes (cxcywh in [0, 1]) per image, image sizes (B, 2), (h, w)."""
        return ground_truth(self.samples)

    @cached_property
    def teacher_assignment(self) -> Tensor:
        """(L_t, B, N_t) int64, the teacher's own assignment: object, -1 background, -2 left out."""
        return self.teacher.assign(self.teacher_walk.outputs, self.samples)

    def replay(self, injection: Injection) -> DecoderOutputs:
        """The student's decoder on the teacher's queries; the encoder is not run again."""
        if id(injection) not in self._replays:
            state = self.student_walk.state
            queries = injection(self.student, state, self.teacher_walk.state)
            self._replays[id(injection)] = self.student.decode(state, queries)
        return self._replays[id(injection)]

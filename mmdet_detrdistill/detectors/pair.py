"""One batch as seen by both detectors: what every distillation loss receives."""

from functools import cached_property
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from torch import Tensor

from ..functional.classes import pick_classes
from . import DecoderOutputs, DetectorAdapter, ForwardPass, ground_truth, name_non_finite_image
from .class_map import ClassMap

#: makes entries of the student's decoder inputs, each (B, N, .)
Injection = Callable[['DistillPair'], Dict[str, Tensor]]


class DistillPair:
    """Both walks over a batch, and what is derived from them once and only when asked for.

    Args:
        student: adapter of the student.
        teacher: adapter of the teacher.
        student_forward: its pass over the batch.
        teacher_forward: likewise, made under `no_grad`.
        samples: B `DetDataSample`s with ground truth.
        class_map: the two label sets, None when they are the same.
        injections: rules by name, each makes decoder queries of a pair.
        assigned_stages: the teacher's stages that `teacher_assignment` is made for; None = all.
    """

    def __init__(
        self,
        student: DetectorAdapter,
        teacher: DetectorAdapter,
        student_forward: ForwardPass,
        teacher_forward: ForwardPass,
        samples: List[Any],
        class_map: Optional[ClassMap] = None,
        injections: Optional[Mapping[str, Injection]] = None,
        assigned_stages: Optional[Sequence[int]] = None,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.student_forward, self.teacher_forward = student_forward, teacher_forward
        self.samples = samples
        self.class_map = class_map
        self.assigned_stages = assigned_stages
        self._injections = injections or {}
        self._injected_passes: Dict[str, DecoderOutputs] = {}

    @cached_property
    def ground_truth(self) -> Tuple[List[Tensor], List[Tensor], Tensor]:
        """Labels and boxes (cxcywh in [0, 1]) per image, image sizes (B, 2), (h, w)."""
        return ground_truth(self.samples)

    @cached_property
    def teacher_assignment(self) -> Tensor:
        """(L_t, B, N_t) int64, the teacher's own assignment: object, -1 background, -2 left out."""
        label_map = None if self.class_map is None else self.class_map.label_map
        outputs = self.teacher_forward.outputs
        return self.teacher.assign(outputs, self.samples, label_map, self.assigned_stages)

    def name_non_finite(self, student: bool = True) -> Optional[str]:
        """What is NaN or Inf in the teacher's pass or the student's, with the image's path."""
        passes = [(self.teacher.side, self.teacher_forward)]
        if student:
            passes.append((self.student.side, self.student_forward))
        for side, (state, outputs) in passes:
            found = name_non_finite_image(side, outputs, self.samples, state)
            if found is not None:
                return found
        return None

    @property
    def teacher_classes(self) -> Optional[Tensor]:
        """(K',) the teacher's classes that the student has, in its order; None = all."""
        if self.class_map is None:
            return None
        return self.class_map.teacher_classes.to(self.student_forward.outputs.logits.device)

    def shared_logits(self, logits: Tensor) -> Tensor:
        """The student's logits (..., C) of the classes that the teacher knows."""
        if self.class_map is None:
            return logits
        classes = self.class_map.student_classes.to(logits.device)
        return pick_classes(logits, classes, self.student.activation)

    def predictions(self, student: DecoderOutputs) -> Dict[str, Any]:
        """Both sides' predictions as `functional.logits_kd` and `aligned_kd` take them.

        Args:
            student: its predictions for its own queries, or for the teacher's.
        """
        teacher = self.teacher_forward.outputs
        positive = None if self.assigned_stages == () else self.teacher_assignment >= 0
        return dict(
            student_logits=self.shared_logits(student.logits),
            student_boxes=student.boxes,
            teacher_logits=teacher.logits,
            teacher_boxes=teacher.boxes,
            teacher_positive_mask=positive,
            student_activation=self.student.activation,
            teacher_activation=self.teacher.activation,
            student_mask=student.query_mask,
            teacher_mask=teacher.query_mask,
            teacher_classes=self.teacher_classes,
        )

    def injected_pass(self, name: str) -> DecoderOutputs:
        """The student's decoder on the queries of an injection rule; the encoder is not run again.

        Args:
            name: of the rule; run once per batch.
        """
        if name not in self._injected_passes:
            queries = self._injections[name](self)
            self._injected_passes[name] = self.student.decode(self.student_forward.state, queries)
        return self._injected_passes[name]

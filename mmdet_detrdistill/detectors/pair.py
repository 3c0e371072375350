"""Both forward passes over a batch: what every distillation loss receives."""

from dataclasses import replace
from functools import cached_property
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.logits_kd import Predictions
from . import DecoderOutputs, DetectorAdapter, ForwardPass, ground_truth, name_non_finite_image
from .class_map import ClassMap
from .levels import SharedLevel, pair_strides, shared_levels


class Injected(NamedTuple):
    """Queries that enter both decoders.

    Attributes:
        student: entries of the student's decoder inputs to replace, each (B, N, .).
        teacher: likewise; None: its predictions for these queries are those it made already.
        mask: (B, N) bool, True = counts; None: all.
    """

    student: Dict[str, Tensor]
    teacher: Optional[Dict[str, Tensor]] = None
    mask: Optional[Tensor] = None


#: makes queries of a pair; a dict is that of `Injected.student` alone
Injection = Callable[['DistillPair'], Union[Injected, Dict[str, Tensor]]]


class DistillPair:
    """Both forward passes over a batch, and what is derived from them once, on demand.

    Args:
        student: adapter of the student.
        teacher: adapter of the teacher.
        student_forward: its pass over the batch.
        teacher_forward: likewise, made under `no_grad`.
        samples: B `DetDataSample`s with ground truth.
        class_map: the two label sets, None when they are the same.
        injections: rules by name, each makes decoder queries of a pair.
        assigned_stages: the teacher's stages that `teacher_assignment` is made for; None = all.
        teaching: makes the context in which the teacher runs.
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
        teaching: Callable[[], ContextManager[Any]] = torch.no_grad,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.student_forward, self.teacher_forward = student_forward, teacher_forward
        self.samples = samples
        device = teacher_forward.outputs.logits.device
        self.class_map = None if class_map is None else class_map.to(device)
        self.assigned_stages = assigned_stages
        self.teaching = teaching
        self._injections = injections or {}

    @cached_property
    def ground_truth(self) -> Tuple[List[Tensor], List[Tensor], Tensor]:
        """Labels and boxes (cxcywh in [0, 1]) per image, image sizes (B, 2), (h, w)."""
        return ground_truth(self.samples)

    @cached_property
    def levels(self) -> List[SharedLevel]:
        """The feature levels that both detectors have, paired by stride."""
        pairs = pair_strides(self.student.strides, self.teacher.strides)
        states = self.student_forward.state, self.teacher_forward.state
        return shared_levels(pairs, *(state.sizes for state in states))

    @cached_property
    def teacher_assignment(self) -> Tensor:
        """(L_t, B, N_t) int64, the teacher's own assignment: object, -1 background, -2 left out."""
        label_map = None if self.class_map is None else self.class_map.label_map
        outputs = self.teacher_forward.outputs
        return self.teacher.assign(outputs, self.samples, label_map, self.assigned_stages)

    @property
    def teacher_positive_mask(self) -> Tensor:
        """(L_t, B, N_t) bool, the teacher queries that its own assignment gave an object."""
        return self.teacher_assignment >= 0

    def name_non_finite(self, student: bool = True) -> Optional[str]:
        """Name what is NaN or Inf in the teacher's pass or the student's, with the image's path."""
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
        return None if self.class_map is None else self.class_map.teacher_classes

    def without_unmapped(self, logits: Tensor) -> Tensor:
        """Set logits of classes that the teacher does not know to background, without a gradient.

        Args:
            logits: of the student, (..., C).

        Returns:
            The same shape; such a class has a score of 0 under sigmoid and softmax alike.
        """
        if self.class_map is None:
            return logits
        unmapped = self.class_map.label_map < 0
        unmapped = F.pad(unmapped, (0, logits.shape[-1] - len(unmapped)))  # background counts
        return logits.masked_fill(unmapped, -1e4)

    def predictions(
        self, student: DecoderOutputs, teacher: Optional[DecoderOutputs] = None
    ) -> Tuple[Predictions, Predictions]:
        """Both sides' predictions as `functional.logits_kd` and `aligned_kd` take them.

        Args:
            student: its predictions for its own queries, or for injected ones.
            teacher: likewise; None: for its own.
        """
        teacher = self.teacher_forward.outputs if teacher is None else teacher
        student_classes = None if self.class_map is None else self.class_map.student_classes
        sides = (
            (student, self.student.activation, student_classes),
            (teacher, self.teacher.activation, self.teacher_classes),
        )
        of_student, of_teacher = (
            Predictions(
                outputs.logits,
                outputs.boxes,
                activation,
                outputs.query_mask,
                classes,
                outputs.hidden_states,
            )
            for outputs, activation, classes in sides
        )
        return of_student, of_teacher

    def injected_pass(self, name: str) -> DecoderOutputs:
        """The student's predictions for the queries of an injection rule, by its name."""
        return self._injected_passes[name][0]

    def injected_predictions(self, name: str) -> Tuple[Predictions, Predictions]:
        """Both sides' predictions for the queries of an injection rule, by its name."""
        return self.predictions(*self._injected_passes[name])

    @cached_property
    def _injected_passes(self) -> Dict[str, Tuple[DecoderOutputs, DecoderOutputs]]:
        """Run the student's decoder, not the encoder, once for all rules; the teacher's if asked.

        By name of the rule the predictions of student and teacher.
        """
        found = {name: rule(self) for name, rule in self._injections.items()}
        rules = {name: q if isinstance(q, Injected) else Injected(q) for name, q in found.items()}
        student_sets = [rule.student for rule in rules.values()]
        student = self.student.decode_sets(self.student_forward.state, student_sets)
        teacher = dict.fromkeys(rules, self.teacher_forward.outputs)
        shared = {name: rule.teacher for name, rule in rules.items() if rule.teacher is not None}
        if shared:
            with self.teaching():
                sets = self.teacher.decode_sets(self.teacher_forward.state, [*shared.values()])
            teacher.update({n: _masked(outputs, rules[n].mask) for n, outputs in zip(shared, sets)})
        return {name: (outputs, teacher[name]) for name, outputs in zip(rules, student)}


def _masked(outputs: DecoderOutputs, mask: Optional[Tensor]) -> DecoderOutputs:
    """Take queries (B, N) where `mask` is off out of `query_mask`."""
    if mask is None:
        return outputs
    mask = mask.expand(outputs.boxes.shape[:3])
    kept = mask if outputs.query_mask is None else mask & outputs.query_mask
    return replace(outputs, query_mask=kept)

"""The student keeps its memory side; the query side becomes the teacher's."""

from typing import Dict

from torch import Tensor

from ..adapters import DetectorAdapter, EncoderState
from ..registration import register

QUERY_SIDE = ('query', 'query_pos', 'reference_points')
REFERENCES = ('teacher', 'student')


@register('TASK_UTILS')
class TeacherQueryInjection:
    """The teacher's decoder inputs as queries of the student.

    Source: DETRDistill, section 3.3. Works between detectors whose decoders take the same
    query-side inputs: content and position for DETR, Conditional and Deformable DETR, content and
    anchors for DAB-DETR, content and reference boxes for DINO and DDQ.

    Args:
        references: one-stage Deformable DETR has a layer that makes reference points of query
            positions; 'teacher' takes the teacher's points, which its assignment belongs to,
            'student' lets the student's layer make them, as the released code does. Other
            families have no such choice, so that both mean the same.

    Raises:
        ValueError: unknown option.
    """

    def __init__(self, references: str = 'teacher') -> None:
        if references not in REFERENCES:
            raise ValueError(f'references must be one of {REFERENCES}, got {references!r}')
        self.references = references

    def __call__(
        self, student: DetectorAdapter, student_state: EncoderState, teacher_state: EncoderState
    ) -> Dict[str, Tensor]:
        """Entries of the student's decoder inputs to replace, each (B, N_t, .), detached.

        Raises:
            ValueError: the two decoders take other query-side inputs, or other widths.
        """
        own, other = student_state.decoder_inputs, teacher_state.decoder_inputs
        wanted = [name for name in QUERY_SIDE if name in own]
        offered = [name for name in QUERY_SIDE if name in other]
        if wanted != offered:
            raise ValueError(
                f"the student's decoder takes {wanted}, the teacher's {offered}: its queries cannot "
                'enter this student. Use a teacher of the same family or set loss_assign_kd=None.'
            )
        queries = {name: other[name].detach() for name in wanted}
        for name, value in queries.items():
            if value.shape[-1] != own[name].shape[-1]:
                raise ValueError(
                    f"the teacher's {name} is {value.shape[-1]} wide, the student's decoder takes "
                    f'{own[name].shape[-1]}. Use a teacher of equal width or set '
                    'loss_assign_kd=None.'
                )
        make_references = getattr(student.detector, 'reference_points_fc', None)
        if self.references == 'student' and make_references is not None:
            queries['reference_points'] = make_references(queries['query_pos']).sigmoid()
        return queries

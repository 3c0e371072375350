"""The student's memory, the teacher's queries."""

from typing import Dict

from torch import Tensor, nn

from ...detectors import DetectorAdapter
from ...detectors.pair import DistillPair
from ...registry import register
from ..base import as_float
from .base import InjectionRule

QUERY_SIDE = ('query', 'query_pos', 'reference_points')
REFERENCES = ('teacher', 'student')
#: per kind of query, the entries that are as wide as the detector
EMBEDDINGS = {
    'position': ('query_pos',),
    'conditional': ('query_pos',),
    'anchor': (),
    'point': ('query', 'query_pos'),
    'proposal': ('query', 'query_pos'),
    'box': ('query',),
    'distinct': ('query',),
}


@register('TASK_UTILS')
class TeacherQueryInjection(InjectionRule):
    """Use the teacher's decoder inputs as queries of the student.

    Source: DETRDistill, section 3.3. Works between queries of one kind (see
    `DetectorAdapter.query_kind`). When the widths differ, a learned linear layer per embedding
    brings the teacher's to the student's.

    Args:
        references: one-stage Deformable DETR has a layer that makes reference points of query
            positions; 'teacher' takes the teacher's points, which its assignment belongs to,
            'student' lets the student's layer make them, as the released code does. Other
            families have no such choice, so that both mean the same.

    Raises:
        ValueError: unknown option.
    """

    def __init__(self, references: str = 'teacher') -> None:
        super().__init__()
        if references not in REFERENCES:
            raise ValueError(f'references must be one of {REFERENCES}, got {references!r}')
        self.references = references
        self.projections = nn.ModuleDict()

    def refusal(self, student: DetectorAdapter, teacher: DetectorAdapter) -> str:
        kinds = student.query_kind, teacher.query_kind
        if kinds == ('memory', 'memory'):
            return 'the content of its queries is its own memory'
        if kinds[0] == kinds[1]:
            return ''
        return f"the teacher's queries are of kind {kinds[1]!r}, not {kinds[0]!r}"

    def prepare(self, student: DetectorAdapter, teacher: DetectorAdapter) -> None:
        if student.embed_dims == teacher.embed_dims:
            return
        for name in EMBEDDINGS.get(student.query_kind, ('query',)):
            self.projections[name] = nn.Linear(teacher.embed_dims, student.embed_dims)

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        """Return the entries of the student's decoder inputs to replace, each (B, N_t, .)."""
        inputs = pair.student_forward.state.decoder_inputs
        teacher_inputs = pair.teacher_forward.state.decoder_inputs
        queries = {
            name: teacher_inputs[name].detach().to(inputs[name].dtype)
            for name in QUERY_SIDE
            if name in inputs
        }
        if 'reference_points' in inputs:  # points stay float32, whatever the queries' dtype
            queries['reference_points'] = as_float(teacher_inputs['reference_points'].detach())
        for name, projection in self.projections.items():
            queries[name] = projection(queries[name])
        content = inputs['query']
        if 'query' not in self.projections and queries['query'].shape[-1] != content.shape[-1]:
            queries['query'] = content[:, :1].expand(-1, queries['query'].shape[1], -1)
        make_references = getattr(pair.student.detector, 'reference_points_fc', None)
        if self.references == 'student' and make_references is not None:
            queries['reference_points'] = make_references(queries['query_pos']).sigmoid()
        return queries

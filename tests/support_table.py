"""One optimisation step for every ordered pair of families, and the table in docs/support.md.

python -m tests.support_table --write docs/support.md
"""

import argparse
from pathlib import Path
from typing import Any, Dict

import torch

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors import build_adapter
from mmdet_detrdistill.losses.injection import build_injection
from tests.departing_detectors import WORDS, grounding_dino, sparse_rcnn
from tests.stand_ins.codetr import codetr
from tests.stand_ins.rtdetr import rtdetr
from tests.tiny_detectors import NUM_CLASSES, batch, tiny

FAMILIES = {
    'detr': 'DETR',
    'conditional': 'Conditional DETR',
    'dab': 'DAB-DETR',
    'deformable': 'Deformable DETR',
    'deformable_refine': 'Deformable DETR, box refinement',
    'deformable_two_stage': 'Deformable DETR, two-stage',
    'dino': 'DINO',
    'ddq': 'DDQ DETR',
}
STUDENTS = {**FAMILIES, 'rtdetr': 'RT-DETR', 'sparse_rcnn': 'Sparse R-CNN'}
TEACHERS = {**STUDENTS, 'grounding_dino': 'Grounding DINO', 'codetr': 'Co-DETR'}
BUILDERS = dict(
    rtdetr=rtdetr, grounding_dino=grounding_dino, codetr=codetr, sparse_rcnn=sparse_rcnn
)
CELLS = {'TeacherQueryInjection': 'queries', 'TeacherBoxInjection': 'boxes', '': '-'}
BEGIN, END = '<!-- support table: begin -->', '<!-- support table: end -->'


def build_tiny(family: str, **options: Any) -> torch.nn.Module:
    """A tiny detector of a family: MMDetection's own, or a stand-in of those that are not."""
    return BUILDERS[family](**options) if family in BUILDERS else tiny(family, **options)


def injection_of(student: torch.nn.Module, teacher: torch.nn.Module) -> str:
    """Name of the rule that `type='auto'` takes for a pair, '' when every rule refuses."""
    try:
        rule = build_injection(
            dict(type='auto'), build_adapter(student), build_adapter(teacher, 'teacher')
        )
    except ValueError:
        return ''
    return type(rule).__name__


def step(student: torch.nn.Module, teacher: torch.nn.Module) -> Dict[str, float]:
    """One optimisation step with every loss that applies to the pair; the logged terms."""
    losses = dict(
        loss_logits_kd=dict(type='LogitsKDLoss'), loss_feature_kd=dict(type='FeatureKDLoss')
    )
    if injection_of(student, teacher):
        losses['loss_assign_kd'] = dict(type='AssignKDLoss')
        losses['loss_aligned_kd'] = dict(type='AlignedKDLoss')
    model = DETRDistill(student, teacher, dict(type='DETRDistiller', distill_losses=losses)).train()
    if model.teacher_adapter.prompted:
        model.teacher_adapter.set_phrases(WORDS[:NUM_CLASSES])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    total, terms = model.parse_losses(model.loss(*batch(empty='one')))
    total.backward()
    optimizer.step()
    return {name: float(value) for name, value in terms.items()}


def table() -> str:
    """Rows are students, columns teachers; each cell says what enters the student's decoder."""
    detectors = {family: build_tiny(family) for family in TEACHERS}
    lines = [
        '| student \\ teacher | ' + ' | '.join(TEACHERS.values()) + ' |',
        '|---' * (len(TEACHERS) + 1) + '|',
    ]
    for student, name in STUDENTS.items():
        cells = [CELLS[injection_of(detectors[student], detectors[other])] for other in TEACHERS]
        lines.append(f'| **{name}** | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--write', type=Path, help='put the table between the markers of this file')
    args = parser.parse_args()
    text = table()
    print(text)
    if args.write:
        page = args.write.read_text()
        before, rest = page.split(BEGIN)
        _, after = rest.split(END)
        args.write.write_text(f'{before}{BEGIN}\n\n{text}\n\n{END}{after}')


if __name__ == '__main__':
    main()

"""Which work directory is the teacher's, the student's alone, the distilled student's."""

import os
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from .work_dir import TrainingRun, WorkDirError, read_work_dir

LABELS = {'teacher': 'teacher', 'student': 'student alone', 'distilled': 'student distilled'}


@dataclass
class Group:
    """Trainings that differ in the seed only."""

    label: str
    role: str
    runs: List[TrainingRun]


def teacher_folder(run: TrainingRun) -> Optional[str]:
    """Folder of the checkpoint that a distilled student learned from."""
    path = run.settings['model'].get('teacher_ckpt')
    return os.path.dirname(os.path.abspath(path)) if isinstance(path, str) else None


def add_teachers(runs: List[TrainingRun]) -> List[TrainingRun]:
    """The runs, and those of their teachers whose work directory is where the config says."""
    found = {os.path.realpath(run.folder): run for run in runs}
    for run in runs:
        folder = teacher_folder(run)
        if run.distils and folder is not None and os.path.realpath(folder) not in found:
            try:
                found[os.path.realpath(folder)] = read_work_dir(os.path.relpath(folder))
            except WorkDirError:
                continue
    return list(found.values())


def assign_roles(runs: List[TrainingRun]) -> None:
    """Set `role` of each run.

    A distillation is 'distilled'. A plain training is the 'teacher' when a distillation took a
    checkpoint out of its folder (or of one of that name), the 'student' when its model is the
    student of a distillation; of others nothing is known.
    """
    distilled = [run for run in runs if run.distils]
    folders = [teacher_folder(run) for run in distilled]
    known = {os.path.realpath(folder) for folder in folders if folder is not None}
    names = {os.path.basename(folder) for folder in folders if folder is not None}
    students = [student_model(run) for run in distilled]
    for run in runs:
        if run.distils:
            run.role = 'distilled'
        elif os.path.realpath(run.folder) in known or run.settings['model'] in students:
            is_teacher = os.path.realpath(run.folder) in known
            run.role = 'teacher' if is_teacher else 'student'
        elif os.path.basename(os.path.abspath(run.folder)) in names:
            run.role = 'teacher'


def student_model(run: TrainingRun) -> Dict[str, Any]:
    """The detector config that a distillation trains."""
    architecture = run.settings['model']['architecture']
    if isinstance(architecture, dict) and 'type' in architecture:
        return architecture
    from mmdet_detrdistill.config.read import detector_config

    return detector_config(architecture, 'architecture').to_dict()


def group_runs(runs: List[TrainingRun]) -> List[Group]:
    """Runs of one role and signature together, teacher first; labels tell groups apart."""
    groups: Dict[Any, Group] = {}
    order = {role: place for place, role in enumerate((*LABELS, ''))}
    for run in sorted(runs, key=lambda run: (order[run.role], run.config, run.seed or 0)):
        key = (run.role, run.config, run.signature)
        stem = os.path.splitext(run.config)[0]
        groups.setdefault(key, Group(LABELS.get(run.role, stem), run.role, [])).runs.append(run)
    found = list(groups.values())
    for label in {group.label for group in found}:
        alike = [group for group in found if group.label == label]
        if len(alike) > 1:
            stems = [os.path.splitext(group.runs[0].config)[0] for group in alike]
            for number, (group, stem) in enumerate(zip(alike, stems), 1):
                distinct = stem if len(set(stems)) == len(stems) else str(number)
                group.label = f'{label} ({distinct})'
    return found

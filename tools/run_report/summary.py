"""Groups of trainings and the figures of a report: means, spreads, gains, the table."""

import os
import platform
import re
import statistics
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

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
    path = run.settings['model'].get('teacher_ckpt') if run.distils else None
    return os.path.realpath(os.path.dirname(path)) if isinstance(path, str) else None


def student_model(run: TrainingRun) -> Dict[str, Any]:
    """Config of the detector that a run trains, in a distillation that of the student."""
    if not run.distils:
        return dict(run.settings['model'])
    from mmdet_detrdistill.config.load import detector_config

    return dict(detector_config(run.settings['model']['architecture'], 'architecture').to_dict())


def add_teachers(runs: Sequence[TrainingRun]) -> List[TrainingRun]:
    """The runs, and those of their teachers whose work directory is where the config says."""
    by_folder = {os.path.realpath(run.folder): run for run in runs}
    for folder in filter(None, map(teacher_folder, runs)):
        if folder not in by_folder:
            try:
                by_folder[folder] = read_work_dir(os.path.relpath(folder))
            except WorkDirError:
                continue
    return list(by_folder.values())


def assign_roles(runs: Sequence[TrainingRun]) -> None:
    """Set `role` of each run.

    A distillation is 'distilled'. A plain training is the 'teacher' when a distillation took a
    checkpoint out of its folder, the 'student' when its model is the student of a distillation,
    else the 'teacher' when its folder has the name of a teacher's; of others nothing is known.
    """
    teachers = [folder for folder in map(teacher_folder, runs) if folder is not None]
    students = [student_model(run) for run in runs if run.distils]
    for run in runs:
        folder = os.path.realpath(run.folder)
        if run.distils:
            run.role = 'distilled'
        elif folder in teachers:
            run.role = 'teacher'
        elif run.settings['model'] in students:
            run.role = 'student'
        elif os.path.basename(folder) in map(os.path.basename, teachers):
            run.role = 'teacher'


def group_runs(runs: Sequence[TrainingRun]) -> List[Group]:
    """Runs of one role and method together, teacher first; labels tell groups apart."""
    groups: Dict[Any, Group] = {}
    order = [*LABELS, '']
    for run in sorted(runs, key=lambda run: (order.index(run.role), run.config, run.seed or 0)):
        key = (run.role, run.config, run.method)
        label = LABELS.get(run.role, os.path.splitext(run.config)[0])
        groups.setdefault(key, Group(label, run.role, [])).runs.append(run)
    for label in {group.label for group in groups.values()}:
        alike = [group for group in groups.values() if group.label == label]
        stems = [os.path.splitext(group.runs[0].config)[0] for group in alike]
        if len(alike) > 1:
            for number, (group, stem) in enumerate(zip(alike, stems), 1):
                group.label = f'{label} ({stem if len(set(stems)) == len(stems) else number})'
    return list(groups.values())


def spread(values: Sequence[float]) -> Dict[str, float]:
    """Mean, standard deviation (n - 1), minimum and maximum; {} of nothing."""
    if not values:
        return {}
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    extremes = {'min': min(values), 'max': max(values)}
    return {'mean': round(statistics.mean(values), 2), 'std': round(deviation, 2), **extremes}


def spreads(values: Sequence[Dict[str, float]]) -> Dict[str, Dict[str, float]]:
    """The spread of each name's values."""
    names = dict.fromkeys(name for each in values for name in each)
    return {name: spread([each[name] for each in values if name in each]) for name in names}


def summarise(groups: Sequence[Group]) -> List[Dict[str, Any]]:
    """Per group: what it is, its length, and the spread of each metric and class over its runs."""
    return [
        {
            'label': group.label,
            'role': group.role,
            'config': group.runs[0].config,
            'folders': [run.folder for run in group.runs],
            'seeds': [run.seed for run in group.runs],
            'unit': group.runs[0].unit,
            'length': group.runs[0].length,
            'metrics': spreads([run.final for run in group.runs]),
            'classes': spreads([run.per_class for run in group.runs]),
            'minutes': spread([run.minutes for run in group.runs if run.minutes is not None]),
        }
        for group in groups
    ]


def main_metric(groups: Sequence[Group]) -> str:
    """The metric of curves and gains: mAP, else AP, else the first that was logged."""
    names = [name for group in groups for run in group.runs for name in run.final]
    return next((name for name in ('mAP', 'AP', *names) if name in names), 'mAP')


def pairs_of(group: Group, groups: Sequence[Group]) -> List[Tuple[TrainingRun, TrainingRun]]:
    """Runs of equal seed, distilled and alone: the student of the same model, else the only one."""
    if group.role != 'distilled':
        return []
    students = [other for other in groups if other.role == 'student']
    model = student_model(group.runs[0])
    alike = [other for other in students if other.runs[0].settings['model'] == model]
    base = alike[:1] or (students if len(students) == 1 else [])
    alone = {run.seed: run for other in base for run in other.runs}
    return [(run, alone[run.seed]) for run in group.runs if run.seed in alone]


def gains(groups: Sequence[Group], metric: str = 'mAP') -> List[Dict[str, Any]]:
    """Gain of each distilled group over its student alone, seed by seed.

    `unequal` has the lengths (distilled, alone) of runs that were trained unequally long.
    """
    found = []
    for group in groups:
        pairs = [p for p in pairs_of(group, groups) if all(metric in run.final for run in p)]
        if pairs:
            per_seed = {a.seed: round(a.final[metric] - b.final[metric], 1) for a, b in pairs}
            lengths = {(f'{a.length} {a.unit}s', f'{b.length} {b.unit}s') for a, b in pairs}
            gain = dict(label=group.label, metric=metric, per_seed=per_seed)
            unequal = sorted(pair for pair in lengths if pair[0] != pair[1])
            found.append({**gain, **spread(list(per_seed.values())), 'unequal': unequal})
    return found


def class_gains(group: Group, groups: Sequence[Group]) -> Dict[str, Dict[str, float]]:
    """Spread over the seeds of each class's AP distilled minus alone, in points."""
    found = []
    for a, b in pairs_of(group, groups):
        both = [name for name in a.per_class if name in b.per_class]
        found.append({name: round(a.per_class[name] - b.per_class[name], 1) for name in both})
    return spreads(found)


def rows(summary: Sequence[Dict[str, Any]]) -> List[List[str]]:
    """The table's cells, with a head; `-` where there is nothing to measure."""
    names = list(dict.fromkeys(name for entry in summary for name in entry['metrics']))
    units = {entry['unit'] for entry in summary}
    cells = [['', f'{units.pop()}s' if len(units) == 1 else 'training', *names, 'minutes', 'seeds']]
    for entry in summary:
        unit = '' if cells[0][1] != 'training' else f' {entry["unit"]}s'
        row = [entry['label'], '-' if entry['length'] is None else f'{entry["length"]}{unit}']
        for name in names:
            value = entry['metrics'].get(name, {'max': -1})
            deviation = f' ± {value["std"]:.1f}' if len(entry['seeds']) > 1 else ''
            row.append('-' if value['max'] < 0 else f'{value["mean"]:.1f}{deviation}')
        minutes = f'{entry["minutes"]["mean"]:.1f}' if entry['minutes'] else '-'
        seeds = ', '.join('?' if seed is None else str(seed) for seed in entry['seeds'])
        cells.append([*row, minutes, seeds])
    return cells


def sentences(found: Sequence[Dict[str, Any]]) -> List[str]:
    """Each gain in words."""
    lines = []
    for gain in found:
        about = 'one seed'
        if len(gain['per_seed']) > 1:
            seeds = ', '.join(f'{value:+.1f}' for value in gain['per_seed'].values())
            about = f'std {gain["std"]:.1f}, min {gain["min"]:+.1f}, max {gain["max"]:+.1f}; '
            about += f'per seed {seeds}'
        pairs = ', '.join(f'{a} against {b} alone' for a, b in gain['unequal'])
        unequal = f', not at equal training: {pairs}' if pairs else ''
        value = f'{gain["mean"]:+.1f} {gain["metric"]}'
        lines.append(f'gain of {gain["label"]}: {value} ({about}){unequal}')
    return lines


def table(summary: Sequence[Dict[str, Any]], found: Sequence[Dict[str, Any]]) -> str:
    """The results as a Markdown table, and the gains."""
    cells = rows(summary)
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ['| ' + ' | '.join(c.ljust(w) for c, w in zip(row, widths)) + ' |' for row in cells]
    lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
    return '\n'.join([*lines, '', *sentences(found)])


def hardware() -> Dict[str, Any]:
    """Processor, cores and GPU of this machine."""
    import torch

    processor = platform.processor() or platform.machine()
    with suppress(OSError), open('/proc/cpuinfo') as file:
        names = re.findall(r'model name\s*: (.*)', file.read())
        processor = names[0] if names else processor
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {'processor': processor, 'cores': os.cpu_count(), 'gpu': gpu}

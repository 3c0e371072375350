"""The figures of a report: means, spreads, gains, the table."""

import datetime
import importlib.metadata
import os
import platform
import statistics
from typing import Any, Dict, List, Optional, Sequence

from .roles import Group
from .work_dir import METRICS


def spread(values: Sequence[float]) -> Dict[str, float]:
    """Mean, standard deviation (n - 1), minimum and maximum."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        'mean': round(statistics.mean(values), 2),
        'std': round(deviation, 2),
        'min': min(values),
        'max': max(values),
    }


def summarise(groups: Sequence[Group]) -> List[Dict[str, Any]]:
    """Per group: label, role, seeds, epochs and the spread of each metric over its runs."""
    found = []
    for group in groups:
        finals = [run.final for run in group.runs if run.final]
        metrics = {
            name: spread([final[name] for final in finals if name in final])
            for name in METRICS
            if any(name in final for final in finals)
        }
        minutes = [run.minutes for run in group.runs if run.minutes is not None]
        found.append(
            {
                'label': group.label,
                'role': group.role,
                'config': group.runs[0].config,
                'folders': [run.folder for run in group.runs],
                'seeds': [run.seed for run in group.runs],
                'epochs': group.runs[0].curve[-1]['epoch'] if group.runs[0].curve else None,
                'metrics': metrics,
                'minutes': round(statistics.mean(minutes), 1) if minutes else None,
            }
        )
    return found


def baseline_of(group: Group, groups: Sequence[Group]) -> Optional[Group]:
    """The student alone that a distilled group is compared with: its model, else the only one."""
    from .roles import student_model

    students = [other for other in groups if other.role == 'student']
    model = student_model(group.runs[0])
    alike = [other for other in students if other.runs[0].settings['model'] == model]
    return alike[0] if alike else students[0] if len(students) == 1 else None


def gains(groups: Sequence[Group]) -> List[Dict[str, Any]]:
    """Gain in mAP of each distilled group over its student alone, seed by seed.

    `unequal_epochs` has the pairs (distilled, alone) of runs that were trained unequally long.
    """
    found = []
    for group in groups:
        base = baseline_of(group, groups) if group.role == 'distilled' else None
        if base is None:
            continue
        alone = {run.seed: run.curve[-1] for run in base.runs if 'mAP' in run.final}
        pairs = {
            run.seed: (run.curve[-1], alone[run.seed])
            for run in group.runs
            if 'mAP' in run.final and run.seed in alone
        }
        per_seed = {seed: round(a['mAP'] - b['mAP'], 1) for seed, (a, b) in pairs.items()}
        if per_seed:
            gain = {'label': group.label, 'per_seed': per_seed, **spread(list(per_seed.values()))}
            epochs = {(a['epoch'], b['epoch']) for a, b in pairs.values()}
            unequal = sorted(pair for pair in epochs if pair[0] != pair[1])
            found.append({**gain, 'unequal_epochs': unequal} if unequal else gain)
    return found


def class_gains(group: Group, groups: Sequence[Group]) -> Dict[str, Dict[str, float]]:
    """Spread over the seeds of each class's AP distilled minus alone, in points."""
    base = baseline_of(group, groups) if group.role == 'distilled' else None
    if base is None:
        return {}
    alone = {run.seed: run.per_class for run in base.runs}
    differences: Dict[str, List[float]] = {}
    for run in group.runs:
        for name, value in run.per_class.items():
            if name in alone.get(run.seed, {}):
                other = alone[run.seed][name]
                differences.setdefault(name, []).append(round(value - other, 1))
    return {name: spread(values) for name, values in differences.items()}


def number(value: Optional[Dict[str, float]], several: bool) -> str:
    """Mean and, of several seeds, standard deviation; `-` when there is nothing to measure."""
    if value is None or value['max'] < 0:
        return '-'
    deviation = f' ± {value["std"]:.1f}' if several else ''
    return f'{value["mean"]:.1f}{deviation}'


def rows(summary: Sequence[Dict[str, Any]]) -> List[List[str]]:
    """The table's cells, with a head."""
    found = [['', 'epochs', *METRICS, 'minutes', 'seeds']]
    for entry in summary:
        several = len(entry['seeds']) > 1
        cells = [number(entry['metrics'].get(name), several) for name in METRICS]
        minutes = '-' if entry['minutes'] is None else f'{entry["minutes"]:.1f}'
        seeds = ', '.join('?' if seed is None else str(seed) for seed in entry['seeds'])
        epochs = '-' if entry['epochs'] is None else str(entry['epochs'])
        found.append([entry['label'], epochs, *cells, minutes, seeds])
    return found


def sentences(found: Sequence[Dict[str, Any]]) -> List[str]:
    """Each gain in words."""
    lines = []
    for gain in found:
        text = f'gain of {gain["label"]}: {gain["mean"]:+.1f} mAP '
        if len(gain['per_seed']) > 1:
            seeds = ', '.join(f'{value:+.1f}' for value in gain['per_seed'].values())
            text += f'(std {gain["std"]:.1f}, min {gain["min"]:+.1f}, max {gain["max"]:+.1f}; '
            text += f'per seed {seeds})'
        else:
            text += '(one seed)'
        if 'unequal_epochs' in gain:
            pairs = ', '.join(f'{a} epochs against {b} alone' for a, b in gain['unequal_epochs'])
            text += f', not at equal training: {pairs}'
        lines.append(text)
    return lines


def table(summary: Sequence[Dict[str, Any]], found: Sequence[Dict[str, Any]]) -> str:
    """The results as a Markdown table, and the gains; a metric without objects reads `-`."""
    cells = rows(summary)
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ['| ' + ' | '.join(c.ljust(w) for c, w in zip(row, widths)) + ' |' for row in cells]
    lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
    return '\n'.join([*lines, '', *sentences(found)])


def hardware() -> Dict[str, Any]:
    """Processor, cores and GPU of this machine."""
    import torch

    processor = platform.processor() or platform.machine()
    if os.path.isfile('/proc/cpuinfo'):
        with open('/proc/cpuinfo') as file:
            names = [
                line.split(':', 1)[1].strip() for line in file if line.startswith('model name')
            ]
        processor = names[0] if names else processor
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {'processor': processor, 'cores': os.cpu_count(), 'gpu': gpu}


def versions() -> Dict[str, str]:
    """Versions of Python and of what decides the figures."""
    found = {'python': platform.python_version()}
    for name in ('torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmrazor', 'mmdet_detrdistill'):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = 'not installed'
    return found


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')

"""What `tools/quickstart.py` leaves behind: table, plot, report.json."""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
from typing import Any, Dict, List, Sequence

METRICS = ('mAP', 'AP50', 'AP75', 'small', 'medium', 'large')
ROLES = ('teacher', 'student', 'distilled')
LABELS = {'teacher': 'teacher', 'student': 'student alone', 'distilled': 'student distilled'}


def spread(values: Sequence[float]) -> Dict[str, float]:
    """Mean, standard deviation (n - 1), minimum and maximum."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        'mean': round(statistics.mean(values), 2),
        'std': round(deviation, 2),
        'min': min(values),
        'max': max(values),
    }


def summarise(runs: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Spread of each metric over the seeds, and of the gain in mAP of equal seeds.

    Args:
        runs: entries with `role`, `seed` and `final` (metric -> per cent).
    """
    summary: Dict[str, Any] = {}
    for role in ROLES:
        finals = [run['final'] for run in runs if run['role'] == role]
        summary[role] = {name: spread([final[name] for final in finals]) for name in METRICS}
    scores = {(run['role'], run['seed']): run['final']['mAP'] for run in runs}
    seeds = sorted(run['seed'] for run in runs if run['role'] == 'distilled')
    gains = [round(scores['distilled', seed] - scores['student', seed], 1) for seed in seeds]
    summary['gain'] = {'per_seed': dict(zip(map(str, seeds), gains)), **spread(gains)}
    return summary


def table(report: Dict[str, Any]) -> str:
    """The results as a Markdown table; a metric without objects reads `-`."""
    summary = report['summary']
    several = len(summary['gain']['per_seed']) > 1

    def cell(value: Dict[str, float]) -> str:
        if value['max'] < 0:
            return '-'
        deviation = f' ± {value["std"]:.1f}' if several and value['std'] else ''
        return f'{value["mean"]:.1f}{deviation}'

    rows = [['', 'epochs', *METRICS, 'minutes']]
    for role in ROLES:
        runs = [run for run in report['runs'] if run['role'] == role]
        minutes = statistics.mean(run['minutes'] for run in runs)
        cells = [cell(summary[role][name]) for name in METRICS]
        rows.append([LABELS[role], str(runs[0]['epochs']), *cells, f'{minutes:.1f}'])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ['| ' + ' | '.join(c.ljust(w) for c, w in zip(row, widths)) + ' |' for row in rows]
    lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
    gain = summary['gain']
    lines.append('')
    if several:
        seeds = ', '.join(f'{value:+.1f}' for value in gain['per_seed'].values())
        lines.append(
            f'gain by distillation: {gain["mean"]:+.1f} mAP (std {gain["std"]:.1f}, '
            f'min {gain["min"]:+.1f}, max {gain["max"]:+.1f}; per seed {seeds})'
        )
    else:
        lines.append(f'gain by distillation: {gain["mean"]:+.1f} mAP (one seed)')
    return '\n'.join(lines)


def plot(report: Dict[str, Any], path: str) -> None:
    """mAP over epochs: three curves, mean over the seeds with their range."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    styles = {  # colours of Okabe and Ito, told apart in grey by line and marker too
        'teacher': {'color': '#666666', 'linestyle': '--', 'marker': 's'},
        'student': {'color': '#0072B2', 'linestyle': '-', 'marker': 'o'},
        'distilled': {'color': '#D55E00', 'linestyle': '-', 'marker': '^'},
    }
    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), constrained_layout=True)
    for role in ROLES:
        curves = [run['curve'] for run in report['runs'] if run['role'] == role]
        scores: Dict[int, List[float]] = {}
        for point in (point for curve in curves for point in curve):
            scores.setdefault(point['epoch'], []).append(point['mAP'])
        epochs = sorted(scores)
        mean = [statistics.mean(scores[epoch]) for epoch in epochs]
        label = f'{LABELS[role]}: {mean[-1]:.1f}'
        axes.plot(epochs, mean, label=label, markersize=4, **styles[role])
        if len(curves) > 1:
            low, high = ([f(scores[epoch]) for epoch in epochs] for f in (min, max))
            axes.fill_between(epochs, low, high, color=styles[role]['color'], alpha=0.2, lw=0)
    count = len(report['summary']['gain']['per_seed'])
    seeds = f'{count} seeds, range shaded' if count > 1 else 'one seed'
    axes.set_xlabel('training (epochs)')
    axes.set_ylabel(f'COCO mAP on {report["data"]["val_images"]} validation images (%)')
    axes.set_title(f'{report["title"]} ({seeds})', fontsize=10)
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


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


def write_report(report: Dict[str, Any], folder: str) -> List[str]:
    """Write report.json and curves.png; returns their paths."""
    paths = [os.path.join(folder, name) for name in ('report.json', 'curves.png')]
    with open(paths[0], 'w') as file:
        json.dump(report, file, indent=1)
    plot(report, paths[1])
    return paths

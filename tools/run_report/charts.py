"""The report's charts, as SVG for the page and PNG for slides.

Colours are those of Okabe and Ito, and legible on white and on black; the lines of groups differ in
their dashes too, and points in their marker.
"""

import io
import os
import re
import statistics
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

from .summary import Group, class_gains
from .work_dir import TrainingRun, distillation_share, is_distillation

TEXT = '#121314'  # stands for the colour of the page's text
STAGE = re.compile(r'^(?:d\d+\.|enc_|dn_)')  # terms of earlier stages, encoder, denoising queries
Series = List[Tuple[float, float]]
Reader = Callable[[TrainingRun], Series]


class Style(NamedTuple):
    """How a group is drawn; dashes are points of line and gap."""

    color: str
    dashes: Tuple[int, ...]
    marker: str


ROLES = {
    'teacher': Style('#808080', (2, 3), 's'),
    'student': Style('#0072b2', (7, 4), 'o'),
    'distilled': Style('#d55e00', (), '^'),
}
MORE = (
    Style('#009e73', (7, 2, 1, 2), 'D'),
    Style('#cc79a7', (9, 3), 'v'),
    Style('#8a7600', (7, 2, 1, 2, 1, 2), 'X'),
    Style('#56b4e9', (3, 3), 'P'),
    Style('#e69f00', (1, 4), '*'),
)


class Chart(NamedTuple):
    """One chart: its title and its SVG; the PNG is in the folder `charts`."""

    title: str
    svg: str


def styles_of(groups: Sequence[Group]) -> List[Style]:
    """Choose the style of each group; the first of a role has the role's."""
    styles: List[Style] = []
    for group in groups:
        style = ROLES.get(group.role)
        extra = len([taken for taken in styles if taken in MORE])
        styles.append(style if style and style not in styles else MORE[extra % len(MORE)])
    return styles


def new_axes(width: float, height: float, xlabel: str, ylabel: str) -> Tuple[Any, Any]:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    coloured = ('text.color', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color', 'ytick.color')
    pyplot.rcParams.update(dict.fromkeys(coloured, TEXT))
    pyplot.rcParams.update({'svg.fonttype': 'none', 'font.family': 'sans-serif', 'font.size': 9})
    figure, axes = pyplot.subplots(figsize=(width, height), constrained_layout=True)
    axes.set(xlabel=xlabel, ylabel=ylabel, axisbelow=True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.25, color=TEXT)
    return figure, axes


def finish(figure: Any, title: str, name: str, folder: str) -> Chart:
    """Write the PNG; return the SVG in the colours of the page."""
    from matplotlib import pyplot

    os.makedirs(os.path.join(folder, 'charts'), exist_ok=True)
    figure.savefig(os.path.join(folder, 'charts', f'{name}.png'), dpi=150, facecolor='white')
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
    pyplot.close(figure)
    svg = buffer.getvalue().replace(TEXT, 'currentColor')
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg[svg.index('<svg') :], flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', '', svg, count=2)
    label = title.replace('&', '&amp;').replace('"', '&quot;')
    return Chart(title, svg.replace('<svg', f'<svg role="img" aria-label="{label}"', 1))


def over_seeds(series: Sequence[Series]) -> Tuple[List[float], ...]:
    """Places, and mean, least and greatest value there."""
    values: Dict[float, List[float]] = {}
    for place, value in (point for points in series for point in points):
        values.setdefault(place, []).append(value)
    places = sorted(values)
    return (places, *([f(values[p]) for p in places] for f in (statistics.mean, min, max)))


def line_chart(
    groups: Sequence[Group],
    read: Reader,
    axes_names: Tuple[str, str],
    title: str,
    name: str,
    folder: str,
    small: bool = False,
    behind: Sequence[Reader] = (),
) -> List[Chart]:
    """Draw a line per group, the range of its seeds shaded; [] where no run has a value.

    Args:
        read: the values of a run; those of `behind` are drawn thin.
        axes_names: of x and y, with their units.
        small: without markers and legend.
    """
    figure, axes = new_axes(*((3.6, 2.6) if small else (4.2, 3.1)), *axes_names)
    empty = True
    for group, style in zip(groups, styles_of(groups)):
        line: Dict[str, Any] = dict(color=style.color, linestyle=(0, style.dashes))
        for each in behind:
            axes.plot(*over_seeds([each(run) for run in group.runs])[:2], alpha=0.4, lw=0.7, **line)
        places, mean, low, high = over_seeds([read(run) for run in group.runs])
        if places:
            empty = False
            marker = None if small and len(places) > 1 else style.marker
            axes.plot(places, mean, marker=marker, markersize=4, label=group.label, **line)
            axes.fill_between(places, low, high, color=style.color, alpha=0.2, lw=0)
    if empty:
        return []
    axes.set_ylim(0, None if small else max(1, axes.get_ylim()[1]))  # no ticks of 0.01 %
    axes.ticklabel_format(axis='x', style='plain')
    ticks: Dict[str, int] = dict(nbins=4) if small else dict(min_n_ticks=1)
    axes.xaxis.get_major_locator().set_params(integer=True, **ticks)
    if not small:
        figure.legend(loc='outside upper left', ncols=2, frameon=False, fontsize=8)
    return [finish(figure, title, name, folder)]


def metric_charts(groups: Sequence[Group], metric: str, folder: str) -> List[Chart]:
    """Draw the metric over the training: over epochs, over iterations, or a chart of each."""
    charts = []
    for unit in ('epoch', 'iteration'):

        def read(run: TrainingRun, unit: str = unit) -> Series:
            return [(p[unit], p[metric]) for p in run.curve if unit in p and metric in p]

        names = f'training ({unit}s)', f'{metric}, validation (%)'
        stem = 'map' if unit == 'epoch' else 'map_iterations'
        charts += line_chart(groups, read, names, f'{metric} while training', stem, folder)
    return charts


def instability_chart(groups: Sequence[Group], folder: str) -> List[Chart]:
    """Draw the share of objects that changed their query."""

    def read(run: TrainingRun) -> Series:
        return [(epoch, 100 * share) for epoch, share in run.instability]

    names = 'training (epochs)', 'objects with another query (%)'
    title = 'Instability of the assignment, epoch against epoch before'
    return line_chart(groups, read, names, title, 'instability', folder)


def loss_charts(groups: Sequence[Group], folder: str) -> List[Chart]:
    """Draw each loss term, its earlier stages thin, and the share of the distillation losses.

    The sum comes first, then the student's own terms, then those of distillation.
    """
    logged = {name for group in groups for run in group.runs for name in run.losses}
    logged = {name for name in logged if 'loss' in name or name == 'grad_norm'}
    title = 'share of the distillation losses'
    names = 'training (iterations)', 'share of the loss (%)'
    charts = line_chart(
        groups, distillation_share, names, title, 'distillation_share', folder, small=True
    )
    names = 'training (iterations)', 'value (no unit)'
    terms = {STAGE.sub('', name) for name in logged}
    for term in sorted(
        terms, key=lambda t: (is_distillation(t), t not in ('loss', 'grad_norm'), t)
    ):
        readers: Dict[str, Reader] = {
            name: lambda run, name=name: run.losses.get(name, [])  # type: ignore[misc]
            for name in sorted(logged)
            if STAGE.sub('', name) == term
        }
        last = readers.pop(term, lambda run: [])
        stem = f'loss_{term.replace(".", "_")}'
        behind = list(readers.values())
        charts += line_chart(groups, last, names, term, stem, folder, small=True, behind=behind)
    return charts


def class_charts(groups: Sequence[Group], folder: str) -> List[Chart]:
    """Draw, per distilled group, the gain in AP by class: bars the mean, whiskers the range."""
    charts = []
    for number, (group, style) in enumerate(zip(groups, styles_of(groups))):
        spreads = sorted(class_gains(group, groups).items(), key=lambda item: item[1]['mean'])
        if not spreads:
            continue
        label = 'AP distilled minus alone (points of %)'
        figure, axes = new_axes(4.2, max(2.0, 0.9 + 0.26 * len(spreads)), label, 'class')
        names, means = [name for name, _ in spreads], [s['mean'] for _, s in spreads]
        errors = [[abs(s['mean'] - s[end]) for _, s in spreads] for end in ('min', 'max')]
        axes.barh(names, means, color=style.color)
        if any(map(any, errors)):
            axes.errorbar(means, names, xerr=errors, fmt='none', ecolor=TEXT, capsize=2)
        axes.axvline(0, color=TEXT, lw=0.8)
        axes.grid(axis='y', visible=False)
        axes.margins(y=0.02)
        charts.append(
            finish(figure, f'Gain of each class: {group.label}', f'classes_{number}', folder)
        )
    return charts

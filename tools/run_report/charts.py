"""The report's charts, as SVG for the page and PNG for slides.

Colours are those of Okabe and Ito, and legible on white and on black; the lines of groups differ in
their dashes too, and points in their marker.
"""

import io
import os
import re
import statistics
from itertools import cycle
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

from matplotlib import rcParams
from matplotlib.figure import Figure

from .summary import LABELS, Group, class_gains
from .work_dir import TrainingRun, distillation_share, is_distillation

TEXT = '#121314'  # stands for the colour of the page's text
COLOURED = ('text.color', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color', 'ytick.color')
LOOK = {'svg.fonttype': 'none', 'font.family': 'sans-serif', 'font.size': 9}
STAGE = re.compile(r'^(?:d\d+\.|enc_|dn_)')  # terms of earlier stages, encoder, denoising queries
Series = List[Tuple[float, float]]
Reader = Callable[[TrainingRun], Series]
Chart = Tuple[str, str]  # title and SVG


class Style(NamedTuple):
    """How a group is drawn; dashes are points of line and gap."""

    color: str
    dashes: Tuple[int, ...]
    marker: str


STYLES = (
    Style('#808080', (2, 3), 's'),
    Style('#0072b2', (7, 4), 'o'),
    Style('#d55e00', (), '^'),
    Style('#009e73', (7, 2, 1, 2), 'D'),
    Style('#cc79a7', (9, 3), 'v'),
    Style('#8a7600', (7, 2, 1, 2, 1, 2), 'X'),
    Style('#56b4e9', (3, 3), 'P'),
    Style('#e69f00', (1, 4), '*'),
)


def styles_of(groups: Sequence[Group]) -> List[Style]:
    """Choose the style of each group; the first of a role has that of the role."""
    roles = [group.role for group in groups]
    firsts = [role in LABELS and roles.index(role) == place for place, role in enumerate(roles)]
    more = cycle(STYLES[len(LABELS) :])
    order = list(LABELS)
    return [STYLES[order.index(r)] if first else next(more) for r, first in zip(roles, firsts)]


def over_seeds(series: Sequence[Series]) -> Tuple[List[float], ...]:
    """Places, and mean, least and greatest value there."""
    values: Dict[float, List[float]] = {}
    for place, value in (point for points in series for point in points):
        values.setdefault(place, []).append(value)
    places = sorted(values)
    return (places, *([f(values[p]) for p in places] for f in (statistics.mean, min, max)))


def reader_of(name: str) -> Reader:
    return lambda run: run.losses.get(name, [])


class Charts:
    """Draws groups of trainings; each method gives [] where no run has a value.

    Args:
        metric: of the curves.
        folder: `folder/charts` gets the PNGs.
    """

    def __init__(self, groups: Sequence[Group], metric: str, folder: str) -> None:
        self.groups, self.metric, self.folder = groups, metric, os.path.join(folder, 'charts')
        self.styles = styles_of(groups)
        rcParams.update({**LOOK, **dict.fromkeys(COLOURED, TEXT)})
        os.makedirs(self.folder, exist_ok=True)

    def curves(self) -> List[Chart]:
        """Draw the metric over the training: over epochs, over iterations, or a chart of each."""
        charts, metric = [], self.metric
        for unit, name in (('epoch', 'map'), ('iteration', 'map_iterations')):

            def read(run: TrainingRun, unit: str = unit) -> Series:
                return [(p[unit], p[metric]) for p in run.curve if unit in p and metric in p]

            names = f'training ({unit}s)', f'{metric}, validation (%)'
            charts += self.lines(name, f'{metric} while training', names, read)
        return charts

    def instability(self) -> List[Chart]:
        """Draw the share of objects that changed their query."""
        names = 'training (epochs)', 'objects with another query (%)'
        title = 'Instability of the assignment, epoch against epoch before'

        def read(run: TrainingRun) -> Series:
            return [(epoch, 100 * share) for epoch, share in run.instability]

        return self.lines('instability', title, names, read)

    def losses(self) -> List[Chart]:
        """Draw the share of the distillation losses and each term, its earlier stages thin.

        The sum comes first, then the student's own terms, then those of distillation.
        """
        names = 'training (iterations)', 'share of the loss (%)'
        title = 'share of the distillation losses'
        charts = self.lines('distillation_share', title, names, distillation_share, small=True)
        terms: Dict[str, List[str]] = {}
        for name in sorted(
            {name for group in self.groups for r in group.runs for name in r.losses}
        ):
            if 'loss' in name or name == 'grad_norm':
                terms.setdefault(STAGE.sub('', name), []).append(name)
        first = 'loss', 'grad_norm'
        for term in sorted(terms, key=lambda t: (is_distillation(t), t not in first, t)):
            names = 'training (iterations)', 'value (no unit)'
            behind = [reader_of(name) for name in terms[term] if name != term]
            stem = f'loss_{term.replace(".", "_")}'
            charts += self.lines(stem, term, names, reader_of(term), behind, small=True)
        return charts

    def classes(self) -> List[Chart]:
        """Draw, per distilled group, the gain in AP by class: bars the mean, whiskers the range."""
        charts = []
        for number, (group, style) in enumerate(zip(self.groups, self.styles)):
            gains = class_gains(group, self.groups)
            names = sorted(gains, key=lambda name: gains[name]['mean'])
            if not names:
                continue
            label = 'AP distilled minus alone (points of %)'
            figure, axes = self.axes((4.2, max(2.0, 0.9 + 0.26 * len(names))), (label, 'class'))
            means = [gains[name]['mean'] for name in names]
            errors = [
                [abs(gains[n]['mean'] - gains[n][end]) for n in names] for end in ('min', 'max')
            ]
            axes.barh(names, means, color=style.color)
            if any(map(any, errors)):
                axes.errorbar(means, names, xerr=errors, fmt='none', ecolor=TEXT, capsize=2)
            axes.axvline(0, color=TEXT, lw=0.8)
            axes.grid(axis='y', visible=False)
            axes.margins(y=0.02)
            title = f'Gain of each class: {group.label}'
            charts.append(self.finish(figure, title, f'classes_{number}'))
        return charts

    def lines(
        self,
        name: str,
        title: str,
        axes_names: Tuple[str, str],
        read: Reader,
        behind: Sequence[Reader] = (),
        small: bool = False,
    ) -> List[Chart]:
        """Draw a line per group, the range of its seeds shaded.

        Args:
            name: of the PNG.
            axes_names: of x and y, with their units.
            read: the values of a run; those of `behind` are drawn thin.
            small: without markers and legend.
        """
        figure, axes = self.axes((3.6, 2.6) if small else (4.2, 3.1), axes_names)
        empty = True
        for group, style in zip(self.groups, self.styles):
            line: Dict[str, Any] = dict(color=style.color, linestyle=(0, style.dashes))
            for each in behind:
                thin = over_seeds([each(run) for run in group.runs])[:2]
                axes.plot(*thin, alpha=0.4, lw=0.7, **line)
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
        return [self.finish(figure, title, name)]

    @staticmethod
    def axes(size: Tuple[float, float], names: Tuple[str, str]) -> Tuple[Any, Any]:
        figure = Figure(figsize=size, layout='constrained')
        axes = figure.subplots()
        axes.set(xlabel=names[0], ylabel=names[1], axisbelow=True)
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.25, color=TEXT)
        return figure, axes

    def finish(self, figure: Any, title: str, name: str) -> Chart:
        """Write the PNG; return the SVG in the colours of the page."""
        figure.savefig(os.path.join(self.folder, f'{name}.png'), dpi=150, facecolor='white')
        buffer = io.StringIO()
        figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
        svg = buffer.getvalue().replace(TEXT, 'currentColor')
        return title, svg[svg.index('<svg') :]

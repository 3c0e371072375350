"""The report's charts, as SVG for the page and PNG for slides.

Colours are those of Okabe and Ito; the lines of groups differ in their dashes too, and points in
their marker. In the SVG colours are CSS variables, so that the page has light and dark ones.
"""

import io
import os
import re
import statistics
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from .roles import Group
from .summary import class_gains
from .work_dir import TrainingRun, is_distillation

TEXT = '#121314'  # stands for the page's text colour
COLOURS = {'teacher': '#666666', 'student': '#0072b2', 'distilled': '#d55e00'}
MORE_COLOURS = ('#009e73', '#cc79a7', '#8a7600', '#56b4e9', '#e69f00')
STYLES = {'teacher': (':', 's'), 'student': ('--', 'o'), 'distilled': ('-', '^')}
MORE_STYLES = tuple(  # dashes: points of line and gap
    ((0, dashes), marker)
    for dashes, marker in (
        ((7, 2, 1, 2), 'D'),
        ((9, 3), 'v'),
        ((7, 2, 1, 2, 1, 2), 'X'),
        ((3, 3), 'P'),
        ((1, 4), '*'),
    )
)
TERM = re.compile(r'^(?:d\d+\.|enc_|dn_)')


class Style(NamedTuple):
    color: str
    linestyle: Any
    marker: str

    @property
    def css(self) -> str:
        """The colour as the page has it."""
        role = next((role for role, colour in COLOURS.items() if colour == self.color), None)
        return self.color if role is None else f'var(--{role})'

    @property
    def dashes(self) -> str:
        """The line style as SVG has it."""
        named = {'-': 'none', '--': '7 4', ':': '2 3'}
        return named.get(self.linestyle) or ' '.join(map(str, self.linestyle[1]))


class Chart(NamedTuple):
    """One image: what it shows, its file stem, its SVG."""

    title: str
    name: str
    svg: str


def styles_of(groups: Sequence[Group]) -> List[Style]:
    """Of each group; the first of a role has the role's."""
    found, more, used = [], 0, set()
    for group in groups:
        if group.role in COLOURS and group.role not in used:
            used.add(group.role)
            found.append(Style(COLOURS[group.role], *STYLES[group.role]))
        else:
            found.append(Style(MORE_COLOURS[more % 5], *MORE_STYLES[more % 5]))
            more += 1
    return found


def new_axes(width: float, height: float, xlabel: str, ylabel: str) -> Tuple[Any, Any]:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            'svg.fonttype': 'none',
            'font.family': 'sans-serif',
            'font.size': 9,
            **dict.fromkeys(
                ('text.color', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color', 'ytick.color'),
                TEXT,
            ),
        }
    )
    figure, axes = pyplot.subplots(figsize=(width, height), constrained_layout=True)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.25, color=TEXT)
    axes.set_axisbelow(True)
    return figure, axes


def finish(figure: Any, title: str, name: str, folder: str) -> Chart:
    """Write the PNG; return the SVG with the page's colours."""
    from matplotlib import pyplot

    os.makedirs(os.path.join(folder, 'charts'), exist_ok=True)
    path = os.path.join(folder, 'charts', f'{name}.png')
    figure.savefig(path, dpi=150, facecolor='white')
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
    pyplot.close(figure)
    svg = buffer.getvalue()
    svg = svg[svg.index('<svg') :].replace(TEXT, 'currentColor')
    for role, colour in COLOURS.items():
        svg = svg.replace(colour, f'var(--{role})')
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', '', svg, count=2)
    label = title.replace('&', '&amp;').replace('"', '&quot;')
    return Chart(title, name, svg.replace('<svg', f'<svg role="img" aria-label="{label}"', 1))


def over_seeds(series: Sequence[Sequence[Tuple[float, float]]]) -> Tuple[List[float], ...]:
    """Places, and mean, least and greatest value there."""
    values: Dict[float, List[float]] = {}
    for place, value in (point for points in series for point in points):
        values.setdefault(place, []).append(value)
    places = sorted(values)
    return (places, *([f(values[p]) for p in places] for f in (statistics.mean, min, max)))


def draw_groups(axes: Any, groups: Sequence[Group], series_of: Any, markers: bool = True) -> bool:
    """A line per group, its seeds' range shaded; whether there was anything to draw."""
    drawn = False
    for group, style in zip(groups, styles_of(groups)):
        series = [series_of(run) for run in group.runs]
        places, mean, low, high = over_seeds(series)
        if not places:
            continue
        drawn = True
        marker = dict(marker=style.marker, markersize=4) if markers or len(places) == 1 else {}
        axes.plot(
            places, mean, color=style.color, linestyle=style.linestyle, label=group.label, **marker
        )
        if len(series) > 1:
            axes.fill_between(places, low, high, color=style.color, alpha=0.2, lw=0)
    return drawn


def epoch_chart(
    groups: Sequence[Group], series_of: Any, ylabel: str, title: str, name: str, folder: str
) -> List[Chart]:
    figure, axes = new_axes(4.2, 3.1, 'training (epochs)', ylabel)
    if not draw_groups(axes, groups, series_of):
        return []
    axes.set_ylim(0, max(1, axes.get_ylim()[1]))  # nothing learnt yet: no ticks of 0.01 %
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.legend(loc='outside upper left', ncols=2, frameon=False, fontsize=8)
    return [finish(figure, title, name, folder)]


def map_chart(groups: Sequence[Group], folder: str) -> List[Chart]:
    """mAP over epochs."""

    def curve(run: TrainingRun) -> List[Tuple[float, float]]:
        return [(point['epoch'], point['mAP']) for point in run.curve]

    label = 'COCO mAP, validation (%)'
    return epoch_chart(groups, curve, label, 'mAP while training', 'map', folder)


def instability_chart(groups: Sequence[Group], folder: str) -> List[Chart]:
    """Share of objects that changed their query."""

    def curve(run: TrainingRun) -> List[Tuple[float, float]]:
        return [(epoch, 100 * share) for epoch, share in run.instability]

    label = 'objects with another query (%)'
    title = 'Instability of the assignment, epoch against epoch before'
    return epoch_chart(groups, curve, label, title, 'instability', folder)


def is_loss(name: str) -> bool:
    return 'loss' in name or name == 'grad_norm'


def loss_charts(groups: Sequence[Group], folder: str) -> List[Chart]:
    """One chart per loss term; the same term of earlier decoder stages thin beside the last's."""
    logged = {name for group in groups for run in group.runs for name in run.losses}
    terms = sorted({TERM.sub('', name) for name in logged if is_loss(name)}, key=term_order)
    charts = share_chart(groups, folder)
    for term in terms:
        figure, axes = new_axes(3.6, 2.6, 'training (iterations)', 'value (no unit)')
        earlier = sorted(name for name in logged if name != term and TERM.sub('', name) == term)
        for name in earlier:
            for group, style in zip(groups, styles_of(groups)):
                places, mean, _, _ = over_seeds([run.losses.get(name, []) for run in group.runs])
                axes.plot(
                    places, mean, color=style.color, linestyle=style.linestyle, alpha=0.4, lw=0.7
                )
        draw_groups(axes, groups, lambda run, term=term: run.losses.get(term, []), markers=False)
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis='x', style='plain')
        axes.xaxis.get_major_locator().set_params(nbins=4, integer=True)
        charts.append(finish(figure, term, f'loss_{term.replace(".", "_")}', folder))
    return charts


def distillation_share(losses: Dict[str, List[Tuple[int, float]]]) -> List[Tuple[int, float]]:
    """Per cent of the loss that the distillation losses make up, by iteration; [] without any."""
    parts: Dict[int, float] = {}
    for name, values in losses.items():
        if is_distillation(name):
            for place, value in values:
                parts[place] = parts.get(place, 0.0) + value
    totals = dict(losses.get('loss', []))
    return [(p, 100 * v / totals[p]) for p, v in sorted(parts.items()) if totals.get(p)]


def share_chart(groups: Sequence[Group], folder: str) -> List[Chart]:
    label = 'share of the loss (%)'
    figure, axes = new_axes(3.6, 2.6, 'training (iterations)', label)
    if not draw_groups(axes, groups, lambda run: distillation_share(run.losses), markers=False):
        return []
    axes.set_ylim(0, 100)
    axes.xaxis.get_major_locator().set_params(nbins=4, integer=True)
    return [finish(figure, 'share of the distillation losses', 'distillation_share', folder)]


def term_order(term: str) -> Tuple[int, str]:
    """The sum first, then the student's own terms, then those of distillation."""
    if term in ('loss', 'grad_norm'):
        return (0, term)
    return (2 if is_distillation(term) else 1, term)


def class_charts(groups: Sequence[Group], folder: str) -> List[Chart]:
    """Per distilled group: gain in AP by class, bars over the mean, whiskers over the seeds."""
    charts = []
    for number, (group, style) in enumerate(zip(groups, styles_of(groups))):
        found = class_gains(group, groups)
        if not found:
            continue
        names = sorted(found, key=lambda name: found[name]['mean'])
        means = [found[name]['mean'] for name in names]
        height = max(2.0, 0.9 + 0.26 * len(names))
        figure, axes = new_axes(4.2, height, 'AP distilled minus alone (points of %)', 'class')
        errors = [
            [mean - found[name]['min'] for mean, name in zip(means, names)],
            [found[name]['max'] - mean for mean, name in zip(means, names)],
        ]
        several = any(any(side) for side in errors)
        axes.barh(
            names,
            means,
            color=style.color,
            xerr=errors if several else None,
            ecolor=TEXT,
            capsize=2 if several else 0,
        )
        axes.axvline(0, color=TEXT, lw=0.8)
        axes.grid(axis='y', visible=False)
        axes.margins(y=0.02)
        suffix = f'_{number}' if len([g for g in groups if g.role == 'distilled']) > 1 else ''
        title = f'What each class gained: {group.label}'
        charts.append(finish(figure, title, f'classes{suffix}', folder))
    return charts

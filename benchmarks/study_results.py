"""Write the tables and figures of the docs from the lines of the study.

    python benchmarks/study_results.py            # docs/results.md, its figures, method.md, READMEs
    python benchmarks/study_results.py --check    # only say whether they are up to date

What stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` in a page is generated.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import sys
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from plan import CELLS, ROWS, SEEDS, jobs
from study import RESULTS, ROOT, Job, Line, valid_lines

PAGE = os.path.join(ROOT, 'docs', 'results.md')
METHOD_PAGE = os.path.join(ROOT, 'docs', 'method.md')
COSTS = os.path.join(ROOT, 'docs', 'performance', 'options.json')
FIGURES = os.path.join(ROOT, 'docs', 'figures')
#: heads of the table of gains, by page
HEADS = {
    'README.md': 'cell losses teacher alone distilled gain gain_by_seed last_quarter_of_alone',
    'README_zh-CN.md': '实验 损失 教师 单独训练 蒸馏 增益 各种子的增益 单独训练的后四分之一',
}
#: rows that the first tables report, the recommended one first, by what `tools/distill.py` calls it
REPORTED = dict(aligned='aligned', paper='all')
#: method, our option, its row, the row without it, and where its cost was measured
METHODS = (
    ('DETRDistill', '`loss_logits_kd`', 'logits', 'alone', 'paper logits_kd'),
    ('', '`loss_feature_kd`', 'feature', 'alone', 'paper feature_kd'),
    ('', '`loss_assign_kd`', 'assign', 'alone', 'paper assign_kd'),
    ('', "all three, `preset='released'`", 'released', 'all', ''),
    ('KD-DETR', '`loss_aligned_kd`', 'aligned', 'alone', 'paper aligned_kd'),
    ('', '`RandomBoxInjection` beside it', 'random boxes', 'aligned', 'random_boxes aligned_kd'),
    (
        'CLoCKDistill',
        '`GroundTruthBoxInjection` beside it',
        'object boxes',
        'aligned',
        'object_boxes aligned_kd',
    ),
    ('', "`FeatureKDLoss(mask='ground_truth')`", 'object masks', 'all', 'random_boxes feature_kd'),
    ('QSKD', "`LogitsKDLoss(negatives='hard')`", 'hard negatives', 'all', 'random_boxes logits_kd'),
    (
        'D3ETR',
        '`loss_logits_kd` beside `loss_aligned_kd`',
        'logits and aligned',
        'aligned',
        'paper logits_kd',
    ),
    ('RT-DETRv4', '`AdaptiveLossWeightHook`', 'adaptive', 'all', ''),
    ('ESKD', '`LossWeightScheduleHook`, ended for the last quarter', 'ended', 'all', ''),
)
Lines = Dict[Job, Line]


# ---- numbers


def by_seed(lines: Lines, cell: str, row: str) -> Dict[int, Line]:
    """The lines of a row, by seed."""
    return {
        job.seed: line for job, line in sorted(lines.items()) if (job.cell, job.row) == (cell, row)
    }


def score(line: Line) -> float:
    return float(line['final']['mAP'])


def teacher_line(lines: Lines, cell: str) -> Optional[Line]:
    """Line of the teacher of a cell, which may be that of another; None before it is trained."""
    name = CELLS[cell].teacher or cell
    return lines.get(Job(name, 'teacher', CELLS[name].teacher_seed))


def gains(lines: Lines, cell: str, row: str, base: str = 'alone') -> Dict[int, float]:
    """mAP over another row of the same seed, the student alone by default."""
    less, more = by_seed(lines, cell, base), by_seed(lines, cell, row)
    return {s: round(score(more[s]) - score(less[s]), 1) for s in more if s in less}


def mean_text(values: Iterable[float], sign: str = '') -> str:
    """'mean ± standard deviation'; empty before every seed is measured: one seed is no result."""
    values = list(values)
    if len(values) < len(SEEDS):
        return ''
    mean = round(statistics.mean(values), 1) + 0.0  # no -0.0
    return f'{mean:{sign}.1f} ± {statistics.stdev(values):.1f}'


def last_quarter(line: Line) -> Optional[float]:
    """mAP gained in the last quarter of a training; None when no evaluation fell on its begin."""
    curve = dict(line['curve'])
    end = max(curve)
    begin = 3 * end / 4
    return round(curve[end] - curve[begin], 1) if begin in curve else None


def is_converged(last_quarters: Sequence[float]) -> bool:
    """Whether the students alone gain less than 1 mAP there, in the mean."""
    return bool(last_quarters) and statistics.mean(last_quarters) < 1


def epochs_to(curve: Sequence[Tuple[float, float]], target: float) -> Optional[float]:
    """Epochs until a curve reaches `target`, interpolated between evaluations."""
    before: Tuple[float, float] = (0, 0)
    for epoch, value in curve:
        if value >= target:
            share = (target - before[1]) / (value - before[1])
            return before[0] + share * (epoch - before[0])
        before = (epoch, value)
    return None


def seeds_text(values: Dict[int, float], sign: str = '') -> str:
    return ', '.join(f'{values[seed]:{sign}.1f}' if seed in values else '-' for seed in SEEDS)


# ---- tables


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def summary(lines: Lines, head: str = HEADS['README.md'], converged: bool = False) -> str:
    """What the reported losses gain in each cell.

    `converged`: only where three seeds are and the students alone are converged.
    """
    rows = []
    planned = {(cell, row) for cell, row, _ in jobs()}
    for name, (losses, row) in itertools.product(CELLS, REPORTED.items()):
        gained = gains(lines, name, row)
        alone = by_seed(lines, name, 'alone')
        late = [value for value in map(last_quarter, alone.values()) if value is not None]
        final = len(gained) == len(SEEDS) and is_converged(late)
        if (name, row) not in planned or (converged and not final):
            continue
        found = by_seed(lines, name, row)
        teacher = teacher_line(lines, name)
        rows.append(
            [
                f'`{name}`',
                losses,
                f'{score(teacher):.1f}' if teacher else '',
                mean_text(map(score, alone.values())),
                mean_text(map(score, found.values())),
                mean_text(gained.values(), '+'),
                seeds_text(gained, '+') if gained else 'not measured',
                mean_text(late, '+'),
            ]
        )
    return table([word.replace('_', ' ') for word in head.split()], rows)


def speed(lines: Lines) -> str:
    """What the distilled student of each cell needs to be as good as alone at its end."""
    rows = []
    for name, (losses, row) in itertools.product(CELLS, REPORTED.items()):
        alone = by_seed(lines, name, 'alone')
        found = by_seed(lines, name, row)
        teacher = teacher_line(lines, name)
        if len(alone) < len(SEEDS) or len(found) < len(SEEDS) or not teacher:
            continue
        epochs = [epochs_to(found[seed]['curve'], score(alone[seed])) for seed in SEEDS]
        total = alone[0]['curve'][-1][0]
        cells = ['not reached'] * 2
        if None not in epochs:
            minutes = [e / total * found[seed]['cpu_minutes'] for seed, e in zip(SEEDS, epochs)]
            cells = [mean_text(epochs), mean_text(minutes)]
        rows.append(
            [
                f'`{name}`',
                losses,
                str(total),
                cells[0],
                mean_text(line['cpu_minutes'] for line in alone.values()),
                cells[1],
                f'{teacher["cpu_minutes"]:.1f}',
            ]
        )
    head = (
        'cell',
        'losses',
        'epochs alone',
        'epochs distilled',
        'CPU minutes alone',
        'CPU minutes distilled',
        'CPU minutes of the teacher, once',
    )
    return table(head, rows) if rows else 'Not measured with three seeds yet.'


def rows_of(lines: Lines, cell: str) -> str:
    """One row per way to train the student of a cell."""
    planned = {row for name, row, _ in jobs() if name == cell}
    rows = []
    for row, about in ROWS.items():
        found = by_seed(lines, cell, row)
        if row not in planned:
            continue
        values = {seed: score(line) for seed, line in found.items()}
        gained = {} if row in ('alone', 'teacher') else gains(lines, cell, row)
        minutes = [line['cpu_minutes'] for line in found.values()]
        rows.append(
            [
                row,
                about.title,
                f'{values[0]:.1f}' if row == 'teacher' and values else mean_text(values.values()),
                '' if row == 'teacher' else seeds_text(values) if values else 'not measured',
                mean_text(gained.values(), '+'),
                seeds_text(gained, '+') if gained else '',
                f'{statistics.mean(minutes):.0f}' if minutes else '',
            ]
        )
    head = ('row', 'is', 'mAP', 'by seed', 'gain', 'gain by seed', 'CPU minutes')
    return table(head, rows)


def options(lines: Lines) -> str:
    """What each option changes: mAP against its base row, seed by seed."""
    rows = []
    planned = {(cell, row) for cell, row, _ in jobs()}
    for row, cell in itertools.product(ROWS, CELLS):
        base = ROWS[row].base
        if not base or not {(cell, row), (cell, base)} <= planned:
            continue
        change = gains(lines, cell, row, base)
        rows.append(
            [
                row,
                base,
                f'`{cell}`',
                mean_text(change.values(), '+'),
                seeds_text(change, '+') if change else 'not measured',
            ]
        )
    head = ('option', 'changes', 'cell', 'change in mAP', 'by seed')
    return table(head, rows)


def recipes(lines: Lines) -> str:
    """The aligned loss and the authors' form of the three, in every cell planned with both."""
    names = ('aligned', 'released')
    rows = []
    planned = {(cell, row) for cell, row, _ in jobs()}
    for cell in CELLS:
        if not {(cell, name) for name in names} <= planned:
            continue
        means = [mean_text(map(score, by_seed(lines, cell, name).values())) for name in names]
        change = gains(lines, cell, 'released', 'aligned')
        rows.append([f'`{cell}`', *means, mean_text(change.values(), '+'), seeds_text(change, '+')])
    return table(('cell', *names, 'difference', 'by seed'), rows)


def methods(lines: Lines) -> str:
    """Each method's option, what it costs and what it changes."""
    with open(COSTS, encoding='utf-8') as file:
        costs = json.load(file)
    rows = []
    for method, name, row, base, cost in METHODS:
        report, _, part = cost.partition(' ')
        ratio = f'{costs[report]["ratios"][part + " / a"]:.3f}' if cost else ''
        changes = {cell: gains(lines, cell, row, base) for cell in CELLS}
        texts = [
            f'{mean_text(change.values(), "+")} (`{cell}`)'
            for cell, change in changes.items()
            if len(change) == len(SEEDS)
        ]
        rows.append([method, name, ratio, base, ', '.join(texts) or 'not measured'])
    return table(('method', 'option here', 'cost', 'against', 'change in mAP'), rows)


def provenance(lines: Lines) -> str:
    """Where the lines come from."""
    if not lines:
        return 'Nothing is measured yet.'

    def joined(values: Iterable[str]) -> str:
        return ', '.join(sorted(set(values)))

    def version(name: str) -> str:
        versions = (line['versions'][name] for line in lines.values())
        return joined(version.split('+')[0] for version in versions)

    hours = sum(line['cpu_minutes'] for line in lines.values()) / 60
    planned = list(jobs())
    measured = sum(Job(*job) in lines for job in planned)
    return (
        f'{measured} of {len(planned)} planned trainings are measured: {hours:.1f} CPU hours on '
        f'{joined(line["date"][:10] for line in lines.values())}, '
        f'{joined(line["processor"] for line in lines.values())}, one thread each, '
        f'PyTorch {version("torch")}, MMDetection {version("mmdet")}, MMCV {version("mmcv")}.'
    )


def blocks(lines: Lines) -> Dict[str, str]:
    """The generated parts of the page by their names."""
    found = {'provenance': provenance(lines), 'gains': summary(lines), 'speed': speed(lines)}
    found['options'] = options(lines)
    found['recipes'] = recipes(lines)
    for name, cell in CELLS.items():
        parts = [f'{cell.title}.', rows_of(lines, name)]
        if figure(lines, name):
            parts.append(
                f'![mAP over epochs, student alone and distilled](figures/results-{name}.svg)'
            )
        if cell.source:
            parts.append(cell.source)
        found[f'cell {name}'] = '\n\n'.join(parts)
    return found


def fill(page: str, parts: Dict[str, str]) -> str:
    """The page with its generated parts replaced.

    Raises:
        ValueError: the page lacks the markers of a part.
    """
    for name, text in parts.items():
        begin, end = f'<!-- {name}: begin -->', f'<!-- {name}: end -->'
        pattern = re.compile(f'{re.escape(begin)}.*?{re.escape(end)}', re.DOTALL)
        if len(pattern.findall(page)) != 1:
            raise ValueError(f'a page must have one {begin} ... {end}')
        first, *rest = pattern.split(page)
        page = f'{first}{begin}\n\n{text}\n\n{end}{rest[0]}'
    return page


# ---- figure

STYLE = """
  text { font-size: 13px; fill: #1c1e21;
    font-family: "Helvetica Neue", Helvetica, Arial, "DejaVu Sans", sans-serif; }
  .end { text-anchor: end } .mid { text-anchor: middle }
  .grid { stroke: #d0d4da; stroke-width: 1 }
  path { fill: none; stroke-width: 2.4 } .seed { stroke-width: 1; opacity: 0.45 }
  .alone { stroke: #868b94 } .distilled { stroke: #d55e00 }
  .teacher { stroke: #0072b2; stroke-dasharray: 6 4 }
  .alone-t { fill: #5f6570 } .distilled-t { fill: #b54f00 } .teacher-t { fill: #0072b2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e8eaed } .grid { stroke: #3b404b }
    .distilled { stroke: #f08b45 } .teacher { stroke: #4aa8e0 } .alone { stroke: #a3a9b3 }
    .alone-t { fill: #b3b8c2 } .distilled-t { fill: #f08b45 } .teacher-t { fill: #4aa8e0 }
  }
"""


def figure(lines: Lines, cell: str) -> str:
    """SVG of mAP over epochs: mean of the seeds, each seed thin; '' before all are measured.

    The distilled student is that of the first reported losses which have three seeds.
    """

    def of(row: str) -> List[Any]:
        return [line['curve'] for line in by_seed(lines, cell, row).values()]

    full = [of(row) for row in REPORTED.values() if len(of(row)) == len(SEEDS)]
    curves = {'alone': of('alone'), 'distilled': full[0] if full else []}
    taught_by = teacher_line(lines, cell)
    if any(len(found) < len(SEEDS) for found in curves.values()) or not taught_by:
        return ''
    teacher = score(taught_by)
    last = curves['alone'][0][-1][0]
    top = max(teacher, *(value for found in curves.values() for c in found for _, value in c))
    top = 10 * (int(top / 10) + 1)
    left, right, upper, lower = 46, 470, 26, 286

    def place(epoch: float, value: float) -> Tuple[float, float]:
        return left + (right - left) * epoch / last, lower - (lower - upper) * value / top

    def line(kind: str, points: Sequence[Tuple[float, float]]) -> str:
        words = ' '.join(f'{x:.1f},{y:.1f}' for x, y in (place(*point) for point in points))
        return f'<path class="{kind}" d="M {words}"/>'

    drawn: List[str] = []
    for value in range(0, top + 1, 10):
        y = place(0, value)[1]
        drawn.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text class="end" x="{left - 8}" y="{y + 4:.1f}">{value}</text>')
    for epoch, _ in curves['alone'][0]:
        drawn.append(
            f'<text class="mid" x="{place(epoch, 0)[0]:.1f}" y="{lower + 18}">{epoch}</text>'
        )
    drawn.append(line('teacher', [(0, teacher), (last, teacher)]))
    labels = {'teacher': (teacher, f'teacher {teacher:.1f}')}
    for kind, found in curves.items():
        drawn += [line(f'{kind} seed', curve) for curve in found]
        mean = [
            (points[0][0], statistics.mean(value for _, value in points)) for points in zip(*found)
        ]
        drawn.append(line(kind, mean))
        labels[kind] = mean[-1][1], f'{kind} {mean[-1][1]:.1f}'
    y_before = float('inf')
    for kind, (value, text) in sorted(labels.items(), key=lambda item: item[1][0]):
        y = min(place(0, value)[1] + 4, y_before - 16)
        drawn.append(f'<text class="{kind}-t" x="{right + 8}" y="{y:.1f}">{text}</text>')
        y_before = y
    drawn.append(f'<text class="mid" x="{(left + right) / 2}" y="{lower + 38}">epoch</text>')
    drawn.append(f'<text class="end" x="{left - 8}" y="{upper - 12}">mAP</text>')
    title = f'mAP over epochs, {len(SEEDS)} seeds: {CELLS[cell].title}'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 334" width="600" height="334" '
        f'role="img">\n<title>{title}</title>\n<style>{STYLE}</style>\n'
        + '\n'.join(drawn)
        + '\n</svg>\n'
    )


def outputs(results: str) -> Dict[str, str]:
    """Content of every generated file by its path."""
    lines = valid_lines(results)
    parts = {PAGE: blocks(lines), METHOD_PAGE: {'methods': methods(lines)}}
    for name, head in HEADS.items():
        parts[os.path.join(ROOT, name)] = {'study': summary(lines, head, converged=True)}
    found = {}
    for path, texts in parts.items():
        with open(path, encoding='utf-8') as file:
            found[path] = fill(file.read(), texts)
    for name in CELLS:
        drawing = figure(lines, name)
        if drawing:
            found[os.path.join(FIGURES, f'results-{name}.svg')] = drawing
    return found


def stale(results: str) -> List[str]:
    """Generated files that are not what the lines say, relative to the repository."""
    found = []
    for path, content in outputs(results).items():
        text = ''
        if os.path.isfile(path):
            with open(path, encoding='utf-8') as file:
                text = file.read()
        if text != content:
            found.append(os.path.relpath(path, ROOT))
    return found


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--check', action='store_true', help='write nothing; 1 when out of date')
    parser.add_argument(
        '--results', default=RESULTS, help='default: benchmarks/results/study.jsonl'
    )
    arguments = parser.parse_args(argv)
    old = stale(arguments.results)
    if arguments.check:
        if old:
            sys.exit(f'out of date: {", ".join(old)}; run python benchmarks/study_results.py')
        return
    for path, content in outputs(arguments.results).items():
        with open(path, 'w', encoding='utf-8') as file:
            file.write(content)
    print(f'wrote {", ".join(old)}' if old else 'nothing to write')


if __name__ == '__main__':
    main()

"""Put a report together and write it: report.html, report.json, the charts as PNG."""

import io
import json
import os
import warnings
from contextlib import redirect_stdout
from typing import Any, Dict, List, Optional, Sequence

from . import charts
from .measure import measure
from .roles import Group, add_teachers, assign_roles, group_runs
from .summary import (
    class_gains,
    gains,
    hardware,
    now,
    rows,
    sentences,
    summarise,
    table,
    versions,
)
from .work_dir import TrainingRun

TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'page.html')


class Report:
    """Runs, sorted into groups, and all that the page says of them.

    Args:
        runs: as `read_work_dir` gives them; the teacher of a distillation is looked up.
        title: of the page.
        command: that made the report.
        seconds: how long to measure latency and throughput, each; 0 measures nothing.
        more: further facts, for report.json and the page's last table.
    """

    def __init__(
        self,
        runs: Sequence[TrainingRun],
        title: str,
        command: str,
        seconds: float = 6.0,
        more: Optional[Dict[str, Any]] = None,
    ) -> None:
        everything = add_teachers(list(runs))
        assign_roles(everything)
        self.groups: List[Group] = group_runs(everything)
        self.summary = summarise(self.groups)
        self.gains = gains(self.groups)
        self.missing = find_missing(self.groups)
        self.cards: List[Dict[str, Any]] = [{} for _ in self.groups]
        self.how: Dict[str, Any] = {}
        if seconds:
            with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # COCO's reader talks
                warnings.simplefilter('ignore')
                self.cards, self.how, missing = measure(self.groups, seconds)
            self.missing += missing
        else:
            self.missing.append(
                'parameters, FLOPs, latency, throughput: not measured (--seconds 0)'
            )
        self.facts: Dict[str, Any] = {
            'title': title,
            'command': command,
            'date': now(),
            **(more or {}),
            'hardware': hardware(),
            'versions': versions(),
        }

    @property
    def table(self) -> str:
        return table(self.summary, self.gains)

    def as_dict(self) -> Dict[str, Any]:
        """The content of report.json."""
        groups = [
            {
                **entry,
                'card': card,
                'class_gains': class_gains(group, self.groups),
                'runs': [
                    {
                        'folder': run.folder,
                        'seed': run.seed,
                        'checkpoint': run.checkpoint,
                        'final': run.final,
                        'curve': run.curve,
                        'per_class': run.per_class,
                        'instability': run.instability,
                        'environment': run.environment,
                    }
                    for run in group.runs
                ],
            }
            for group, entry, card in zip(self.groups, self.summary, self.cards)
        ]
        found = dict(gains=self.gains, measured=self.how, missing=self.missing)
        return {**self.facts, 'groups': groups, **found}

    def write(self, folder: str) -> List[str]:
        """Write everything to a folder; the paths of page and figures."""
        from jinja2 import Environment

        os.makedirs(folder, exist_ok=True)
        drawn = {
            'map': charts.map_chart(self.groups, folder),
            'classes': charts.class_charts(self.groups, folder),
            'instability': charts.instability_chart(self.groups, folder),
            'losses': charts.loss_charts(self.groups, folder),
        }
        with open(TEMPLATE, encoding='utf-8') as file:
            template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
            page = template.from_string(file.read())
        legend = [
            (group.label, style) for group, style in zip(self.groups, charts.styles_of(self.groups))
        ]
        text = page.render(
            facts=self.facts,
            rows=rows(self.summary),
            gains=sentences(self.gains),
            card=card_rows(self.summary, self.cards),
            how=self.how,
            classes=class_rows(self.groups),
            legend=legend,
            charts=drawn,
            missing=self.missing,
            trained=trained_with(self.groups),
        )
        paths = [os.path.join(folder, name) for name in ('report.html', 'report.json')]
        with open(paths[0], 'w', encoding='utf-8') as file:
            file.write(text)
        with open(paths[1], 'w', encoding='utf-8') as file:
            json.dump(self.as_dict(), file, indent=1)
        return paths


def find_missing(groups: Sequence[Group]) -> List[str]:
    """What the runs lack, in words."""
    found = []
    roles = {group.role for group in groups}
    for role, name in (('teacher', 'teacher'), ('student', 'student trained alone')):
        if 'distilled' in roles and role not in roles:
            found.append(f'no work directory of the {name} was given: it is in no curve')
    for group in groups:
        lacking: Dict[str, List[str]] = {}  # what, and in which folders
        for run in group.runs:
            for text in lacks(run):
                lacking.setdefault(text, []).append(run.folder)
        for text, folders in lacking.items():
            found.append(f'{group.label}, {", ".join(folders)}: {text}')
    return found


def lacks(run: TrainingRun) -> List[str]:
    """What one run lacks, in words."""
    found = []
    if not run.curve:
        found.append('no evaluation was logged (--evaluate evaluates it)')
    elif not run.per_class:
        found.append(
            'no AP per class was logged: set classwise=True in the evaluator, or use --evaluate'
        )
    if run.checkpoint is None:
        found.append('no checkpoint; measured with random weights')
    if not run.instability:
        found.append(
            'no instability of the assignment was logged: add '
            "dict(type='AssignmentStabilityHook') to custom_hooks"
        )
    if run.seed is None:
        found.append('the seed is not known')
    return found


def card_rows(
    summary: Sequence[Dict[str, Any]], cards: Sequence[Dict[str, Any]]
) -> List[List[str]]:
    """The card's cells, quantity by quantity; `not measured` where there is none."""

    def row(name: str, key: str, text: Any) -> List[str]:
        cells = [card.get(key) for card in cards]
        return [name, *('not measured' if cell is None else text(cell) for cell in cells)]

    found = [['', *(entry['label'] for entry in summary)]]
    found.append(['AP (mAP, %)', *(rows([entry])[1][2] for entry in summary)])
    found.append(row('parameters (M)', 'parameters', lambda v: f'{v / 1e6:.2f}'))
    found.append(row('forward pass (GFLOPs per image)', 'gflops', lambda v: f'{v:.2f}'))
    found.append(row('latency (ms per image)', 'latency_ms', lambda v: f'{v:.1f}'))
    found.append(row('throughput (images/s)', 'images_per_second', lambda v: f'{v:.1f}'))
    found.append(row('weights (MB)', 'weights_bytes', lambda v: f'{v / 1e6:.1f}'))
    found.append(
        row('checkpoint with optimizer (MB)', 'checkpoint_bytes', lambda v: f'{v / 1e6:.1f}')
    )
    return found


def class_rows(groups: Sequence[Group]) -> List[List[str]]:
    """AP by class and group, mean over the seeds; [] when none was logged."""
    names = sorted({name for group in groups for run in group.runs for name in run.per_class})
    if not names:
        return []
    found = [['class', *(group.label for group in groups)]]
    for name in names:
        cells = []
        for group in groups:
            values = [run.per_class[name] for run in group.runs if name in run.per_class]
            cells.append(f'{sum(values) / len(values):.1f}' if values else '-')
        found.append([name, *cells])
    return found


def trained_with(groups: Sequence[Group]) -> List[List[str]]:
    """Config, seeds, folders and versions of each group's training, from its log."""
    found = []
    for group in groups:
        seen = [', '.join(f'{k} {v}' for k, v in run.environment.items()) for run in group.runs]
        stated = '; '.join(sorted({text for text in seen if text})) or 'not logged'
        seeds = ', '.join(str(run.seed) for run in group.runs)
        folders = ', '.join(run.folder for run in group.runs)
        found.append([group.label, group.runs[0].config, seeds, folders, stated])
    return found

"""Put a report together and write it: report.html, report.json, the charts as PNG."""

import io
import json
import os
import warnings
from contextlib import redirect_stdout
from datetime import datetime, timezone
from typing import Any, Dict, List, Optional, Sequence

from . import summary
from .charts import Charts
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
        everything = summary.add_teachers(runs)
        summary.assign_roles(everything)
        self.groups = summary.group_runs(everything)
        self.summary = summary.summarise(self.groups)
        self.metric = summary.main_metric(self.groups)
        self.gains = summary.gains(self.groups, self.metric)
        self.missing = find_missing(self.groups)
        self.cards: List[Dict[str, Any]] = [{} for _ in self.groups]
        self.how: Dict[str, Any] = {}
        missing = ['parameters, FLOPs, latency, throughput: not measured (--seconds 0)']
        if seconds:
            from .measure import measure  # slow

            with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # COCO's reader talks
                warnings.simplefilter('ignore')
                self.cards, self.how, missing = measure(self.groups, seconds)
        self.missing += missing
        now = datetime.now(timezone.utc).isoformat(timespec='seconds')
        about = dict(title=title, command=command, date=now, **(more or {}))
        from mmdet_detrdistill.compat.environment import versions  # slow

        self.facts: Dict[str, Any] = {
            **about,
            'hardware': summary.hardware(),
            'versions': versions(),
        }

    @property
    def table(self) -> str:
        return summary.table(self.summary, self.gains)

    def as_dict(self) -> Dict[str, Any]:
        """The content of report.json."""

        def content(run: TrainingRun) -> Dict[str, Any]:
            kept = {k: v for k, v in vars(run).items() if k not in ('settings', 'losses')}
            return {**kept, 'seed': run.seed, 'final': run.final}

        groups = []
        for group, entry, card in zip(self.groups, self.summary, self.cards):
            gains = summary.class_gains(group, self.groups)
            more = dict(card=card, class_gains=gains, runs=[content(run) for run in group.runs])
            groups.append({**entry, **more})
        found = dict(gains=self.gains, measured=self.how, missing=self.missing)
        return {**self.facts, 'groups': groups, **found}

    def write(self, folder: str) -> List[str]:
        """Write everything to a folder; the paths of page and figures."""
        from jinja2 import Environment

        os.makedirs(folder, exist_ok=True)
        with open(TEMPLATE, encoding='utf-8') as file:
            template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
            page = template.from_string(file.read())
        text = page.render(
            report=self.as_dict(),
            metric=self.metric,
            rows=summary.rows(self.summary),
            gains=summary.sentences(self.gains),
            charts=Charts(self.groups, self.metric, folder),
        )
        paths = [os.path.join(folder, name) for name in ('report.html', 'report.json')]
        for path, content in zip(paths, (text, json.dumps(self.as_dict(), indent=1))):
            with open(path, 'w', encoding='utf-8') as file:
                file.write(content)
        return paths


def find_missing(groups: Sequence[summary.Group]) -> List[str]:
    """What the runs lack, in words, each once per group."""
    found = []
    roles = {group.role for group in groups}
    for role, name in (('teacher', 'teacher'), ('student', 'student trained alone')):
        if 'distilled' in roles and role not in roles:
            found.append(f'no work directory of the {name} was given: it is in no curve')
    classes = 'set classwise=True in a CocoMetric evaluator, or use --evaluate'
    hook = "add dict(type='AssignmentStabilityHook') to custom_hooks"
    for group in groups:
        for text, lacks in (
            ('no evaluation was logged (--evaluate evaluates it)', lambda r: not r.curve),
            (f'no AP per class was logged: {classes}', lambda r: r.curve and not r.per_class),
            ('no checkpoint; measured with random weights', lambda r: r.checkpoint is None),
            (f'no instability of the assignment was logged: {hook}', lambda r: not r.instability),
            ('the seed is not known', lambda r: r.seed is None),
        ):
            folders = [run.folder for run in group.runs if lacks(run)]
            found += [f'{group.label}, {", ".join(folders)}: {text}'] if folders else []
    return found

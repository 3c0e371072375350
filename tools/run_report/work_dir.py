"""Read one MMEngine work directory."""

import glob
import hashlib
import json
import math
import os
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

METRICS = {
    'mAP': 'coco/bbox_mAP',
    'AP50': 'coco/bbox_mAP_50',
    'AP75': 'coco/bbox_mAP_75',
    'small': 'coco/bbox_mAP_s',
    'medium': 'coco/bbox_mAP_m',
    'large': 'coco/bbox_mAP_l',
}
INSTABILITY = 'assignment/instability'
#: what of a config does not tell two trainings apart that are to be compared
NOT_THE_METHOD = ('work_dir', 'randomness', 'resume', 'load_from', 'launcher', 'teacher_ckpt')

Point = Dict[str, float]


def is_distillation(name: str) -> bool:
    """Whether a logged number is a term of a distillation loss, `loss_x_kd` or `loss_x_kd.term`."""
    return re.match(r'loss_\w+_kd(\.|$)', name) is not None


class WorkDirError(ValueError):
    """A folder is no work directory, or cannot be read; the message says which and why."""


@dataclass
class TrainingRun:
    """One training.

    Attributes:
        folder: its work directory.
        config: file name of its config; `settings` is the content.
        curve: COCO metrics in per cent after each evaluation, with `epoch`.
        per_class: AP in per cent of the last evaluation, by class; empty unless it was logged
            (`classwise=True`) or evaluated.
        losses: value of each logged number of the training, as (iteration, value).
        instability: (epoch, share in [0, 1]), mean over the decoder stages.
        environment: versions and seed as the training's log states them.
        checkpoint: the last one, None when there is none.
        role: 'teacher', 'student', 'distilled', or '' when unknown; see `roles.assign_roles`.
    """

    folder: str
    config: str
    settings: Dict[str, Any]
    curve: List[Point] = field(default_factory=list)
    per_class: Dict[str, float] = field(default_factory=dict)
    losses: Dict[str, List[Tuple[int, float]]] = field(default_factory=dict)
    instability: List[Tuple[int, float]] = field(default_factory=list)
    environment: Dict[str, str] = field(default_factory=dict)
    checkpoint: Optional[str] = None
    minutes: Optional[float] = None
    role: str = ''

    @property
    def config_path(self) -> str:
        return os.path.join(self.folder, self.config)

    @property
    def seed(self) -> Optional[int]:
        """The config's, else the one that MMEngine drew and logged."""
        seed = (self.settings.get('randomness') or {}).get('seed')
        logged = self.environment.get('seed', '')
        return int(logged) if seed is None and logged.isdigit() else seed

    @property
    def final(self) -> Point:
        """Metrics of the last evaluation; empty without one."""
        return {k: v for k, v in self.curve[-1].items() if k != 'epoch'} if self.curve else {}

    @property
    def signature(self) -> str:
        """Equal for trainings that differ in nothing but the seed and places."""
        return hashlib.sha1(
            json.dumps(_method(self.settings), sort_keys=True, default=str).encode()
        ).hexdigest()[:8]

    @property
    def distils(self) -> bool:
        return self.settings['model'].get('type') == 'DETRDistill'


def _method(settings: Any) -> Any:
    if isinstance(settings, dict):
        return {k: _method(v) for k, v in settings.items() if k not in NOT_THE_METHOD}
    return [_method(v) for v in settings] if isinstance(settings, (list, tuple)) else settings


def read_work_dir(folder: str) -> TrainingRun:
    """What is in a work directory; a resumed training is joined, a repeated one replaces the first.

    Raises:
        WorkDirError: no such folder, no config or no log of MMEngine in it.
    """
    from mmengine.config import Config  # slow

    if not os.path.isdir(folder):
        raise WorkDirError(f'{folder} is not a folder')
    configs = sorted(glob.glob(os.path.join(folder, '*.py')), key=os.path.getmtime)
    logs = log_files(folder)
    if not configs or not logs:
        missing = 'config (*.py)' if not configs else 'log (*/vis_data/scalars.json)'
        raise WorkDirError(
            f'{folder} is no work directory of a training: it has no {missing}. Give the folder '
            'that --work-dir named'
        )
    try:
        settings = Config.fromfile(configs[-1], import_custom_modules=False).to_dict()
    except Exception as error:  # a config is code: anything can go wrong in it
        raise WorkDirError(f'{configs[-1]}: {type(error).__name__}: {error}') from error
    run = TrainingRun(folder, os.path.basename(configs[-1]), settings)
    read_logs(run)
    run.environment = read_environment(os.path.dirname(os.path.dirname(logs[-1])))
    run.checkpoint = last_checkpoint(folder)
    run.minutes = read_minutes(folder)
    return run


def log_files(folder: str) -> List[str]:
    """MMEngine's scalars.json of each start, in their order."""
    return sorted(glob.glob(os.path.join(folder, '*', 'vis_data', 'scalars.json')))


def read_logs(run: TrainingRun) -> TrainingRun:
    """Fill `curve`, `losses` and what else the logs hold."""
    for path in log_files(run.folder):
        _add(run, read_lines(path))
    return run


def read_lines(path: str) -> List[Dict[str, Any]]:
    """The entries of a scalars.json; a last line that an interruption cut off is left out."""
    found = []
    with open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                found.append(json.loads(line))
            except ValueError as error:
                if not line.endswith('\n'):
                    break
                raise WorkDirError(f'{path}, line {number}: not JSON ({error})') from error
    return found


def _add(run: TrainingRun, lines: List[Dict[str, Any]]) -> None:
    """Join a log to what earlier logs said of steps before its first one."""
    evaluations = [line for line in lines if METRICS['mAP'] in line]
    steady = [line for line in lines if INSTABILITY in line]
    trained = [line for line in lines if 'loss' in line]
    if trained:
        first = trained[0]['step']
        for name, values in run.losses.items():
            run.losses[name] = [point for point in values if point[0] < first]
        epoch = trained[0].get('epoch', math.inf)
        run.curve = [point for point in run.curve if point['epoch'] < epoch]
        run.instability = [point for point in run.instability if point[0] < epoch]
    for line in trained:
        for name, value in line.items():
            if name not in ('step', 'iter', 'epoch', 'time', 'data_time', 'memory'):
                run.losses.setdefault(name, []).append((line['step'], value))
    for line in evaluations:
        run.curve = [point for point in run.curve if point['epoch'] != line['step']]
        found = {name: round(100 * line[key], 1) for name, key in METRICS.items() if key in line}
        run.curve.append({'epoch': line['step'], **found})
        run.per_class = class_scores(line)
    run.instability += [(line['step'], line[INSTABILITY]) for line in steady]


def class_scores(values: Dict[str, float]) -> Dict[str, float]:
    """AP in per cent by class, of what `CocoMetric(classwise=True)` returns; NaN is left out."""
    pattern = re.compile(r'coco/(.+)_precision$')
    found = ((pattern.match(key), value) for key, value in values.items())
    return {
        match.group(1): round(100 * value, 1)
        for match, value in found
        if match is not None and not math.isnan(value)
    }


def read_environment(start: str) -> Dict[str, str]:
    """Versions, device and seed from the head of the log in a start's folder."""
    found: Dict[str, str] = {}
    for path in glob.glob(os.path.join(start, '*.log')):
        with open(path, errors='replace') as file:
            head = file.read(20000)
        for name in ('Python', 'PyTorch', 'MMEngine', 'GPU 0', 'CUDA available', 'seed'):
            match = re.search(rf'^    {re.escape(name)}: (\S+( \S+)*)', head, re.MULTILINE)
            if match is not None:
                found[name] = match.group(1).split(' (')[0]
    return found


def last_checkpoint(folder: str) -> Optional[str]:
    """The checkpoint that MMEngine noted as its last, wherever the folder lies now."""
    note = os.path.join(folder, 'last_checkpoint')
    if os.path.isfile(note):
        with open(note) as file:
            path = os.path.join(folder, os.path.basename(file.read().strip()))
        if os.path.isfile(path):
            return path
    found = glob.glob(os.path.join(folder, 'epoch_*.pth')) + glob.glob(
        os.path.join(folder, 'iter_*.pth')
    )
    return max(found, key=os.path.getmtime) if found else None


def read_minutes(folder: str) -> Optional[float]:
    """How long the training took, where the quickstart noted it."""
    try:
        with open(os.path.join(folder, 'done.json')) as file:
            return json.load(file).get('minutes')
    except (OSError, ValueError):
        return None

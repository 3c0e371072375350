"""Read one MMEngine work directory."""

import glob
import json
import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

SHORT = {'mAP_50': 'AP50', 'mAP_75': 'AP75', 'mAP_s': 'small', 'mAP_m': 'medium', 'mAP_l': 'large'}
INSTABILITY = 'assignment/instability'
COUNTERS = ('step', 'iter', 'epoch', 'time', 'data_time', 'memory')
#: settings that do not tell apart two trainings that are to be compared
NOT_THE_METHOD = ('work_dir', 'randomness', 'resume', 'load_from', 'launcher', 'teacher_ckpt')

Point = Dict[str, float]


class WorkDirError(ValueError):
    """A folder is no work directory, or cannot be read; the message says which and why."""


def is_distillation(name: str) -> bool:
    """Whether a logged number is a term of a distillation loss, `loss_x_kd` or `loss_x_kd.term`."""
    return re.match(r'loss_\w+_kd(\.|$)', name) is not None


def read_metrics(values: Dict[str, Any]) -> Tuple[Dict[str, float], Dict[str, float]]:
    """Metrics and the AP of each class, in per cent, of what any evaluator of MMDetection returns.

    The prefix goes: `coco/bbox_mAP_50` is AP50, `pascal_voc/mAP` mAP, `coco/cat_precision` the AP
    of the class cat. Where two evaluators give one metric, the second keeps its whole name. A NaN
    (a class without objects), what is no number and scores of the teacher are left out.
    """
    metrics: Dict[str, float] = {}
    per_class: Dict[str, float] = {}
    for key, value in values.items():
        if key in COUNTERS or key.startswith(('teacher.', 'assignment/')):
            continue
        if not isinstance(value, (int, float)) or math.isnan(value):
            continue
        score = round(100 * value if value <= 1 else value, 1)
        name = key.split('/', 1)[-1]
        if name.endswith('_precision'):
            per_class[name[: -len('_precision')]] = score
            continue
        name = name[len('bbox_') :] if name.startswith('bbox_') else name
        name = SHORT.get(name, name)
        metrics[key if name in metrics else name] = score
    return metrics, per_class


@dataclass
class TrainingRun:
    """One training.

    Attributes:
        folder: its work directory.
        config: file name of its config; `settings` is the content.
        curve: metrics in per cent after each evaluation, with `epoch` or `iteration`: see `unit`.
        per_class: AP in per cent of the last evaluation, by class; empty unless it was logged
            (`classwise=True`) or evaluated.
        losses: value of each logged number of the training, as (iteration, value).
        instability: (epoch, share in [0, 1]), mean over the decoder stages.
        environment: versions and seed as the training's log states them.
        checkpoint: the last one, None when there is none.
        minutes: how long the training took, where the quickstart noted it.
        role: 'teacher', 'student', 'distilled', or '' when unknown; see `summary.assign_roles`.
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
    def unit(self) -> str:
        """What the training's length is counted in, 'epoch' or 'iteration'."""
        return 'iteration' if 'max_iters' in (self.settings.get('train_cfg') or {}) else 'epoch'

    @property
    def length(self) -> Optional[int]:
        """Epochs or iterations until the last evaluation."""
        return int(self.curve[-1][self.unit]) if self.curve else None

    @property
    def seed(self) -> Optional[int]:
        """The config's, else the one that MMEngine drew and logged."""
        seed = (self.settings.get('randomness') or {}).get('seed')
        logged = self.environment.get('seed', '')
        return int(logged) if seed is None and logged.isdigit() else seed

    @property
    def final(self) -> Point:
        """Metrics of the last evaluation; empty without one."""
        return {k: v for k, v in self.curve[-1].items() if k != self.unit} if self.curve else {}

    def add_evaluation(
        self, place: int, metrics: Point, per_class: Optional[Dict[str, float]] = None
    ) -> None:
        """Append to the curve; an earlier evaluation at the same place goes."""
        self.curve = [point for point in self.curve if point[self.unit] != place]
        self.curve.append({self.unit: place, **metrics})
        self.per_class = per_class or {}

    @property
    def method(self) -> str:
        """Equal for trainings that differ in nothing but the seed and places."""
        return json.dumps(_method(self.settings), sort_keys=True, default=str)

    @property
    def distils(self) -> bool:
        return str(self.settings['model'].get('type')).split('.')[-1] == 'DETRDistill'


def _method(settings: Any) -> Any:
    if isinstance(settings, dict):
        return {k: _method(v) for k, v in settings.items() if k not in NOT_THE_METHOD}
    return [_method(v) for v in settings] if isinstance(settings, (list, tuple)) else settings


def read_work_dir(folder: str) -> TrainingRun:
    """Read a work directory; a resumed training is joined, a repeated one replaces the first.

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
    run = read_logs(TrainingRun(folder, os.path.basename(configs[-1]), settings))
    run.environment = read_environment(os.path.dirname(os.path.dirname(logs[-1])))
    run.checkpoint = last_checkpoint(folder)
    with suppress(OSError, ValueError), open(os.path.join(folder, 'done.json')) as file:
        run.minutes = json.load(file).get('minutes')
    return run


def log_files(folder: str) -> List[str]:
    """MMEngine's scalars.json of each start, in their order."""
    return sorted(glob.glob(os.path.join(folder, '*', 'vis_data', 'scalars.json')))


def read_logs(run: TrainingRun) -> TrainingRun:
    """Fill `curve`, `per_class`, `losses` and `instability` from the logs.

    What earlier logs say of the steps after a log's first one is dropped.
    """
    for lines in map(read_lines, log_files(run.folder)):
        first = next((line for line in lines if 'loss' in line), None)
        if first is not None:
            start = first['step'] if run.unit == 'iteration' else first.get('epoch', math.inf)
            for name, values in run.losses.items():
                run.losses[name] = [point for point in values if point[0] < first['step']]
            run.curve = [point for point in run.curve if point[run.unit] < start]
            run.instability = [point for point in run.instability if point[0] < start]
        step = 0
        for line in lines:
            if 'loss' in line:
                step = line['step']
                for name in line.keys() - set(COUNTERS):
                    run.losses.setdefault(name, []).append((step, line[name]))
            elif INSTABILITY in line:
                run.instability.append((line['step'], line[INSTABILITY]))
            elif 'time' in line:  # MMEngine's line of an evaluation; its step may count epochs
                metrics, per_class = read_metrics(line)
                place = max(line['step'], step) if run.unit == 'iteration' else line['step']
                if metrics:
                    run.add_evaluation(place, metrics, per_class)
    return run


def read_lines(path: str) -> List[Dict[str, Any]]:
    """The entries of a scalars.json; a last line that an interruption cut off is left out."""
    entries = []
    with open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                if line.endswith('\n'):
                    raise WorkDirError(f'{path}, line {number}: not JSON ({error})') from error
    return entries


def distillation_share(run: TrainingRun) -> List[Tuple[int, float]]:
    """Per cent of the loss that the distillation losses make up, by iteration; [] without any."""
    parts: Dict[int, float] = {}
    for name in filter(is_distillation, run.losses):
        for step, value in run.losses[name]:
            parts[step] = parts.get(step, 0.0) + value
    totals = dict(run.losses.get('loss', []))
    return [(step, 100 * v / totals[step]) for step, v in sorted(parts.items()) if totals.get(step)]


def read_environment(start: str) -> Dict[str, str]:
    """Versions, device and seed from the head of the log in a start's folder."""
    names = 'Python|PyTorch|MMEngine|GPU 0|CUDA available|seed'
    environment: Dict[str, str] = {}
    for path in glob.glob(os.path.join(start, '*.log')):
        with open(path, errors='replace') as file:
            found = re.findall(rf'^    ({names}): (\S+(?: \S+)*)', file.read(20000), re.MULTILINE)
        environment.update((name, text.split(' (')[0]) for name, text in found)
    return environment


def last_checkpoint(folder: str) -> Optional[str]:
    """The checkpoint that MMEngine noted as its last, wherever the folder lies now."""
    noted = ''
    with suppress(OSError), open(os.path.join(folder, 'last_checkpoint')) as file:
        noted = os.path.join(folder, os.path.basename(file.read().strip()))
    paths = [path for kind in ('epoch', 'iter') for path in glob.glob(f'{folder}/{kind}_*.pth')]
    return max(paths, key=lambda path: (path == noted, os.path.getmtime(path)), default=None)

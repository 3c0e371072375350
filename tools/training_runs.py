"""Trainings as subprocesses: reused when finished, resumed when interrupted, watched while on."""

import glob
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Callable, Dict, List, Sequence

from run_report.work_dir import (
    Point,
    TrainingRun,
    distillation_share,
    read_logs,
    read_metrics,
)

TOOLS = os.path.dirname(os.path.abspath(__file__))


class RunError(RuntimeError):
    """A training or evaluation stopped; the message ends with its last lines."""


def file_hash(*paths: str) -> str:
    """Hash of the contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, 'rb') as file:
            digest.update(hashlib.sha256(file.read()).digest())
    return digest.hexdigest()


def package_hash() -> str:
    """Hash of the package's sources: a changed loss makes the distilled students train anew."""
    import mmdet_detrdistill

    folder = os.path.dirname(mmdet_detrdistill.__file__)
    return file_hash(*sorted(glob.glob(os.path.join(folder, '**', '*.py'), recursive=True)))


@dataclass
class Run:
    """One training.

    Args:
        name: what progress lines call it.
        config: config file.
        options: overrides, as for `--cfg-options`.
        root: its folder is made here, named by `slug` and a hash of all that decides the result.
        inputs: hashes of what the config reads (annotations, package sources).
    """

    name: str
    slug: str
    config: str
    options: List[str]
    root: str
    inputs: Sequence[str] = ()
    folder: str = field(init=False)
    epochs: int = field(init=False)

    def __post_init__(self) -> None:
        cfg = read_config(self.config, self.options)
        self.epochs = cfg.train_cfg.max_epochs
        text = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
        text = text.replace(os.path.dirname(TOOLS), '')  # a moved checkout changes nothing
        content = '\n'.join([text, *self.inputs]).encode()
        name = f'{self.slug}-{hashlib.sha256(content).hexdigest()[:8]}'
        self.folder = os.path.join(self.root, name)

    @property
    def checkpoint(self) -> str:
        return os.path.join(self.folder, f'epoch_{self.epochs}.pth')

    @property
    def command(self) -> List[str]:
        arguments = ['--work-dir', self.folder]
        if os.path.isfile(os.path.join(self.folder, 'last_checkpoint')):
            arguments.append('--resume')
        if self.options:
            arguments += ['--cfg-options', *self.options]
        train = os.path.relpath(os.path.join(TOOLS, 'train.py'))
        return [sys.executable, train, os.path.relpath(self.config), *arguments]

    @property
    def log(self) -> str:
        return os.path.join(self.folder, 'output.log')

    def record(self) -> Dict[str, Any]:
        """What was noted when it finished; {} when it has not."""
        try:
            with open(os.path.join(self.folder, 'done.json')) as file:
                content: Dict[str, Any] = json.load(file)
        except (OSError, ValueError):
            return {}
        return content if os.path.isfile(self.checkpoint) else {}

    def curve(self) -> List[Point]:
        """COCO metrics, in per cent, after each epoch; those of a resumed training joined."""
        return read_logs(TrainingRun(self.folder, os.path.basename(self.config), {})).curve

    def progress(self) -> str:
        """Epoch and time left from MMEngine's log, latest mAP, share of the distillation losses."""
        pattern = r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/(\d+)\].*?eta: ([\d:, days]+?)  '
        steps = re.findall(pattern, tail(self.log, 20000))
        if not steps:
            return f'{self.name}: starting'
        epoch, step, length, eta = steps[-1]
        run = read_logs(TrainingRun(self.folder, os.path.basename(self.config), {}))
        share = distillation_share(run)
        text = f'{self.name}: epoch {epoch}/{self.epochs} {100 * int(step) // int(length):3d} %, '
        text += f'{eta} left' + (f', mAP {run.final["mAP"]:.1f}' if 'mAP' in run.final else '')
        return text + (f', distillation {share[-1][1]:.0f} % of the loss' if share else '')


def read_config(path: str, options: Sequence[str]) -> Any:
    """MMEngine's `Config` of a file with `KEY=VALUE` words merged as `--cfg-options` does."""
    from mmengine.config import Config, DictAction  # slow, and warns: after the filter in main

    cfg = Config.fromfile(path)
    pairs = (option.split('=', maxsplit=1) for option in options)
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in pairs})
    return cfg


def tail(path: str, size: int) -> str:
    """The last `size` bytes of a text file; '' when it is not there."""
    try:
        with open(path, 'rb') as file:
            file.seek(max(0, os.path.getsize(path) - size))
            return file.read().decode(errors='replace')
    except OSError:
        return ''


def usable_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start(command: Sequence[str], log: str, threads: int) -> 'subprocess.Popen[bytes]':
    """Start a command whose output goes to the end of `log`."""
    # idle threads sleep: on a busy machine spinning ones slow each other down several times
    environment = dict(os.environ, PYTHONUNBUFFERED='1', OMP_WAIT_POLICY='PASSIVE')
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
        environment[name] = str(threads)
    os.makedirs(os.path.dirname(log), exist_ok=True)
    with open(log, 'ab') as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def fail(name: str, log: str, code: int) -> RunError:
    lines = tail(log, 6000).splitlines()[-30:]
    return RunError(f'{name} stopped with code {code}; the end of {log}:\n' + '\n'.join(lines))


def train_all(runs: Sequence[Run], say: Callable[[str], None], interval: float = 15.0) -> None:
    """Train what is not finished, as many at once as there are cores (at most 8).

    Small networks gain little from a second thread, and lose much where other work wants the cores:
    trainings run side by side, with half of the threads that there are cores for.

    Raises:
        RunError: one failed; the others are ended.
    """
    waiting = [run for run in runs if not run.record()]
    for run in runs:
        if run not in waiting:
            say(f'  {run.name}: finished earlier, reused ({run.folder})')
    at_once = max(1, min(len(waiting), usable_cores(), 8))
    threads = min(4, max(1, usable_cores() // (2 * at_once)))
    active: Dict[str, Any] = {}
    shown = time.monotonic()
    try:
        while waiting or active:
            while waiting and len(active) < at_once:
                run = waiting.pop(0)
                command = run.command
                verb = 'resuming' if '--resume' in command else 'training'
                say(f'  {run.name}: {verb} in {run.folder}')
                active[run.name] = (run, command, time.time(), start(command, run.log, threads))
            time.sleep(0.2)
            for name, (run, command, began, process) in list(active.items()):
                code = process.poll()
                if code is None:
                    continue
                del active[name]
                if code != 0 or not os.path.isfile(run.checkpoint):
                    raise fail(name, run.log, code)
                seconds = time.time() - began
                resumed, minutes = '--resume' in command, round(seconds / 60, 2)
                done = dict(command=['python', *command[1:]], minutes=minutes)
                write_record(run, dict(done, resumed=resumed, threads=threads))
                say(f'  {name}: done in {timedelta(seconds=round(seconds))}')
            if active and time.monotonic() - shown >= interval:
                shown = time.monotonic()
                say('  ' + ' | '.join(entry[0].progress() for entry in active.values()))
    finally:
        for _, _, _, process in active.values():
            process.terminate()
        for _, _, _, process in active.values():
            process.wait()


def write_record(run: Run, content: Dict[str, Any]) -> None:
    """Write the marker by which a finished training is recognised."""
    with open(os.path.join(run.folder, 'done.json'), 'w') as file:
        json.dump(content, file, indent=1)


def evaluate(run: Run) -> Dict[str, float]:
    """COCO metrics, in per cent, of the final checkpoint, by `tools/test.py`; kept for next time.

    Raises:
        RunError: it failed.
    """
    record = run.record()
    if 'final' in record:
        return dict(record['final'])
    folder = os.path.join(run.folder, 'test')
    log = os.path.join(folder, 'output.log')
    test = os.path.relpath(os.path.join(TOOLS, 'test.py'))
    command = [sys.executable, test, os.path.relpath(run.config), run.checkpoint]
    command += ['--work-dir', folder]
    if run.options:
        command += ['--cfg-options', *run.options]
    process = start(command, log, max(1, min(4, usable_cores() // 2)))
    try:
        code = process.wait()
    finally:
        process.terminate()  # when this one is interrupted
    results = sorted(glob.glob(os.path.join(folder, '*', '*.json')), key=os.path.getmtime)
    if code != 0 or not results:
        raise fail(f'evaluation of {run.name}', log, code)
    with open(results[-1]) as file:
        values = json.load(file)
    final = read_metrics(values)[0]
    write_record(run, {**record, 'final': final})
    return final

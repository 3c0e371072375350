"""Trainings as subprocesses: reused when finished, resumed when interrupted, watched while on."""

import glob
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Callable, Dict, List, Sequence

from run_report.work_dir import TrainingRun, distillation_share, read_logs

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
        from mmengine.config import Config  # slow, and warns: after the filter in main

        cfg = Config.fromfile(self.config)
        cfg.merge_from_dict(read_words(self.options))
        self.epochs = cfg.train_cfg.max_epochs
        text = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
        text = text.replace(os.path.dirname(TOOLS), '')  # a moved checkout changes nothing
        content = '\n'.join([text, *self.inputs]).encode()
        name = f'{self.slug}-{hashlib.sha256(content).hexdigest()[:8]}'
        self.folder = os.path.join(self.root, name)
        self.checkpoint = os.path.join(self.folder, f'epoch_{self.epochs}.pth')
        self.log = os.path.join(self.folder, 'output.log')
        self.mark = os.path.join(self.folder, 'done.json')  # of a finished training

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
    def finished(self) -> bool:
        return os.path.isfile(self.mark) and os.path.isfile(self.checkpoint)

    def start(self, threads: int) -> None:
        """Start the training; its output goes to the end of `log`."""
        # idle threads sleep: on a busy machine spinning ones slow each other down several times
        settings = dict(PYTHONUNBUFFERED='1', OMP_WAIT_POLICY='PASSIVE')
        libraries = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
        settings.update(dict.fromkeys(libraries, str(threads)))
        os.makedirs(self.folder, exist_ok=True)
        with open(self.log, 'ab') as file:
            self.process = subprocess.Popen(
                self.command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **settings}
            )
        self.began = time.time()

    def end(self) -> float:
        """Note that the training has ended well; return its seconds.

        Raises:
            RunError: it has not.
        """
        if self.process.poll() or not os.path.isfile(self.checkpoint):
            lines = '\n'.join(tail(self.log, 6000).splitlines()[-30:])
            ended = f'{self.name} stopped with code {self.process.poll()}'
            raise RunError(f'{ended}; the end of {self.log}:\n{lines}')
        seconds = time.time() - self.began
        with open(self.mark, 'w') as file:
            json.dump(dict(minutes=round(seconds / 60, 2)), file)
        return seconds

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


def read_words(options: Sequence[str]) -> Dict[str, Any]:
    """Settings by name from `KEY=VALUE` words, as `--cfg-options` reads them."""
    from mmengine.config import DictAction  # slow

    pairs = (option.split('=', maxsplit=1) for option in options)
    return {key: DictAction._parse_iterable(value) for key, value in pairs}


def tail(path: str, size: int) -> str:
    """The last `size` bytes of a text file; '' when it is not there."""
    with suppress(OSError), open(path, 'rb') as file:
        file.seek(max(0, os.path.getsize(path) - size))
        return file.read().decode(errors='replace')
    return ''


def usable_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def train_all(runs: Sequence[Run], say: Callable[[str], None], interval: float = 15.0) -> None:
    """Train what is not finished, as many at once as there are cores (at most 8).

    Small networks gain little from a second thread, and lose much where other work wants the cores:
    trainings run side by side, with half of the threads that there are cores for.

    Raises:
        RunError: one failed; the others are ended.
    """
    for run in runs:
        if run.finished:
            say(f'  {run.name}: finished earlier, reused ({run.folder})')
    waiting = [run for run in runs if not run.finished]
    at_once = max(1, min(len(waiting), usable_cores(), 8))
    active: List[Run] = []
    shown = time.monotonic()
    try:
        while waiting or active:
            while waiting and len(active) < at_once:
                run = waiting.pop(0)
                verb = 'resuming' if '--resume' in run.command else 'training'
                say(f'  {run.name}: {verb} in {run.folder}')
                run.start(min(4, max(1, usable_cores() // (2 * at_once))))
                active.append(run)
            time.sleep(0.2)
            for run in [run for run in active if run.process.poll() is not None]:
                active.remove(run)
                say(f'  {run.name}: done in {timedelta(seconds=round(run.end()))}')
            if active and time.monotonic() - shown >= interval:
                shown = time.monotonic()
                say('  ' + ' | '.join(run.progress() for run in active))
    finally:
        for run in active:
            run.process.terminate()
        for run in active:
            run.process.wait()

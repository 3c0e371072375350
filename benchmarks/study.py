"""Train the cells of the study; each finished training is a line of `results/study.jsonl`.

    python benchmarks/study.py --list                        # what is measured, what is not
    python benchmarks/study.py                               # train what is missing, in order
    python benchmarks/study.py --cells shapes-deformable --rows alone all --minutes 60
    python benchmarks/study.py --data aquarium=FOLDER        # where a real data set lies

A cell is a pair of detectors on one data set, a row one way to train its student. The order is that
of `plan.py`: what decides most comes first. What has a line is skipped, what was interrupted is
resumed. A teacher whose checkpoint is missing is trained again, and its mAP compared with the
recorded one. A training runs on one thread; for a second core start the same command once more.
"""

import argparse
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from plan import CELLS, ROWS, Cell, jobs

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RESULTS = os.path.join(ROOT, 'benchmarks', 'results', 'study.jsonl')
METRICS = {
    'mAP': 'coco/bbox_mAP',
    'AP50': 'coco/bbox_mAP_50',
    'AP75': 'coco/bbox_mAP_75',
    'small': 'coco/bbox_mAP_s',
    'medium': 'coco/bbox_mAP_m',
    'large': 'coco/bbox_mAP_l',
}
TOLERANCE = 1.5  # mAP between a teacher and the recorded one that another machine may make
Line = Dict[str, Any]


class StudyError(RuntimeError):
    """A training failed; the message ends with its last lines."""


class OutOfTime(Exception):
    """The deadline has come; the training that was on is resumed next time."""


class Job(NamedTuple):
    """One training of the study."""

    cell: str
    row: str
    seed: int

    @property
    def folder(self) -> str:
        row = ''.join(c if c.isalnum() else '-' for c in self.row)
        name = f'{row}-seed{self.seed}-v{CELLS[self.cell].version}'
        return os.path.join('work_dirs', 'study', self.cell, name)


# ---- lines


def read_lines(path: str) -> List[Line]:
    """All lines of the results; [] when there is no such file."""
    if not os.path.isfile(path):
        return []
    with open(path) as file:
        return [json.loads(line) for line in file if line.strip()]


def valid_lines(path: str) -> Dict[Job, Line]:
    """The newest line of each training, without those of an earlier version of their cell."""
    found = {}
    for line in read_lines(path):
        cell = CELLS.get(line['cell'])
        if cell is not None and line['version'] == cell.version:
            found[Job(line['cell'], line['row'], line['seed'])] = line
    return found


def append(path: str, line: Line) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, 'a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(line) + '\n')


# ---- one training


@contextmanager
def locked(folder: str) -> Iterator[bool]:
    """Whether this process alone trains in the folder, as long as the context lasts."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, '.lock'), 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def train(
    config: str, options: Sequence[str], folder: str, log: str, deadline: float
) -> Dict[str, Any]:
    """Run `tools/train.py` in a process of one thread; returns the command and its minutes.

    Raises:
        StudyError: it failed.
        OutOfTime: the deadline came first.
    """
    command = ['tools/train.py', config, '--work-dir', folder]
    resumed = os.path.isfile(os.path.join(ROOT, folder, 'last_checkpoint'))
    arguments = [*command, *(['--resume'] if resumed else []), '--cfg-options', *options]
    path = [os.path.join(ROOT, 'benchmarks'), ROOT, os.environ.get('PYTHONPATH', '')]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path), OMP_WAIT_POLICY='PASSIVE')
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
        environment[name] = '1'
    began = time.monotonic()
    with open(log, 'ab') as file:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
        )
    pid = 0
    try:
        while not pid and time.time() < deadline:
            time.sleep(1)
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    finally:  # also when interrupted: the next attempt adds its minutes
        if not pid:
            process.terminate()
            _, status, usage = os.wait4(process.pid, 0)
        minutes = {
            'cpu': round((usage.ru_utime + usage.ru_stime) / 60, 2),
            'wall': round((time.monotonic() - began) / 60, 2),
        }
        append(os.path.join(ROOT, folder, 'attempts.jsonl'), minutes)
    if not pid:
        raise OutOfTime
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        with open(log, errors='replace') as file:
            end = ''.join(file.readlines()[-30:])
        raise StudyError(f'{folder} stopped with code {process.returncode}:\n{end}')
    attempts = read_lines(os.path.join(ROOT, folder, 'attempts.jsonl'))
    return {
        'command': ' '.join(['python', *command, '--cfg-options', *options]),
        'attempts': len(attempts),
        'cpu_minutes': round(sum(attempt['cpu'] for attempt in attempts), 2),
        'wall_minutes': round(sum(attempt['wall'] for attempt in attempts), 2),
    }


def read_curve(folder: str) -> List[Dict[str, float]]:
    """COCO metrics in per cent by epoch, the attempts of a resumed training joined."""
    curve = {}
    for start in sorted(os.listdir(folder)):
        path = os.path.join(folder, start, 'vis_data', 'scalars.json')
        for entry in read_lines(path):
            if METRICS['mAP'] in entry:
                scores = {name: round(100 * entry[key], 1) for name, key in METRICS.items()}
                curve[entry['step']] = {'epoch': entry['step'], **scores}
    return [curve[epoch] for epoch in sorted(curve)]


def checkpoint(folder: str) -> Optional[str]:
    """The checkpoint after the last epoch; None when the training did not finish."""
    if not os.path.isfile(os.path.join(folder, 'finished')):
        return None
    with open(os.path.join(folder, 'last_checkpoint')) as file:
        path = os.path.join(folder, os.path.basename(file.read().strip()))
    return path if os.path.isfile(path) else None


def file_hash(path: str) -> str:
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()[:12]


def environment() -> Dict[str, Any]:
    """Commit, date, versions and processor."""

    def git(*words: str) -> str:
        found = subprocess.run(
            ['git', '-C', ROOT, *words], capture_output=True, text=True, check=True
        )
        return found.stdout.strip()

    code = ['mmdet_detrdistill', 'tools', 'configs', 'benchmarks/configs']
    commit = git('rev-parse', '--short', 'HEAD')
    if git('status', '--porcelain', '--', *code):
        commit += '+changes'
    processor = platform.processor() or platform.machine()
    try:
        with open('/proc/cpuinfo') as file:
            names = [line.split(':')[1].strip() for line in file if line.startswith('model name')]
        processor = names[0] if names else processor
    except OSError:
        pass
    packages = ('torch', 'mmcv', 'mmengine', 'mmdet', 'mmrazor', 'numpy')
    return {
        'commit': commit,
        'date': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'versions': {name: importlib.metadata.version(name) for name in packages},
        'processor': processor,
    }


# ---- the study


class Study:
    """Data, teachers and jobs of one call."""

    def __init__(self, results: str, data: Dict[str, str], deadline: float) -> None:
        self.results = results
        self.data = data
        self.deadline = deadline

    def data_root(self, cell: Cell) -> str:
        """Folder of the cell's data; shapes are made when they are missing."""
        if cell.data in self.data:
            return self.data[cell.data]
        root = os.path.join('data', cell.data)
        if cell.shapes:
            arguments = [str(word) for item in cell.shapes for word in item]
            command = [sys.executable, 'tools/make_shapes.py', root, *arguments]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return root

    def teacher(self, cell: Cell, name: str) -> str:
        """The teacher's checkpoint; trained when it is missing."""
        job = Job(name, 'teacher', cell.teacher_seed)
        while True:
            with locked(os.path.join(ROOT, job.folder)) as mine:
                if mine:
                    path = checkpoint(os.path.join(ROOT, job.folder))
                    if path is None:
                        recorded = valid_lines(self.results).get(job)
                        line = self.run(job, [], retrained=recorded is not None)
                        self.compare(recorded, line)
                        path = checkpoint(os.path.join(ROOT, job.folder))
                    assert path is not None
                    return os.path.relpath(path, ROOT)
            if time.time() > self.deadline:
                raise OutOfTime
            time.sleep(5)  # another process trains it

    @staticmethod
    def compare(recorded: Optional[Line], line: Line) -> None:
        if recorded is None:
            return
        old, new = recorded['final']['mAP'], line['final']['mAP']
        say(f'  teacher trained again: mAP {new}, recorded {old}')
        if abs(old - new) > TOLERANCE:
            raise StudyError(
                f'the teacher of {line["cell"]} has mAP {new}, the recorded one {old}: rows that '
                'it teaches are not comparable; raise the version of the cell in plan.py'
            )

    def run(self, job: Job, options: Sequence[str], **more: Any) -> Line:
        """Train and write the line."""
        cell = CELLS[job.cell]
        config = cell.config(job.row)
        options = [f'data_root={self.data_root(cell)}', f'randomness.seed={job.seed}', *options]
        folder = os.path.join(ROOT, job.folder)
        os.makedirs(folder, exist_ok=True)
        say(f'{datetime.datetime.now():%H:%M} {job.cell}: {job.row}, seed {job.seed}')
        log = os.path.join(folder, 'output.log')
        effort = train(config, options, job.folder, log, self.deadline)
        effort['command'] = effort['command'].replace(self.data_root(cell), f'data/{cell.data}')
        curve = read_curve(folder)
        line = {
            'cell': job.cell,
            'row': job.row,
            'seed': job.seed,
            'version': cell.version,
            'config': config,
            'overrides': cell.overrides(job.row),
            **effort,
            **more,
            **environment(),
            'curve': [[point['epoch'], point['mAP']] for point in curve],
            'final': {name: value for name, value in curve[-1].items() if name != 'epoch'},
        }
        append(self.results, line)
        with open(os.path.join(folder, 'finished'), 'w') as file:
            file.write(line['date'] + '\n')
        minutes = f'{line["cpu_minutes"]} CPU minutes of {line["wall_minutes"]}'
        say(f'{datetime.datetime.now():%H:%M}   mAP {line["final"]["mAP"]}, {minutes}')
        return line

    def do(self, job: Job) -> None:
        """Train what the job names unless it has a line or another process is at it."""
        cell = CELLS[job.cell]
        if job.row == 'teacher':
            self.teacher(cell, job.cell)
            return
        options: List[str] = []
        more: Line = {}
        if job.row != 'alone':
            path = self.teacher(cell, job.cell)
            recorded = valid_lines(self.results)[Job(job.cell, 'teacher', cell.teacher_seed)]
            more['teacher'] = {
                'mAP': recorded['final']['mAP'],
                'checkpoint': file_hash(os.path.join(ROOT, path)),
            }
            options = [f'model.teacher_ckpt={path}', *cell.overrides(job.row)]
        with locked(os.path.join(ROOT, job.folder)) as mine:
            if mine and job not in valid_lines(self.results):
                self.run(job, options, **more)


def say(text: str) -> None:
    print(text, flush=True)


def overview(results: str) -> str:
    """Which seeds of each row have a line, by cell."""
    lines = valid_lines(results)
    text = []
    for name in CELLS:
        wanted: Dict[str, List[int]] = {}
        for cell, row, seed in jobs():
            if cell == name:
                wanted.setdefault(row, []).append(seed)
        text.append(name)
        for row, seeds in wanted.items():
            found = {seed: lines.get(Job(name, row, seed)) for seed in seeds}
            scores = [str(line['final']['mAP']) if line else '-' for line in found.values()]
            text.append(f'  {row:24} {"  ".join(scores)}')
    return '\n'.join(text)


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--list', action='store_true', help='only say what is measured')
    parser.add_argument('--cells', nargs='+', choices=list(CELLS), help='default: all')
    parser.add_argument('--rows', nargs='+', choices=list(ROWS), help='default: all')
    parser.add_argument('--seeds', nargs='+', type=int, help='default: those of the plan')
    parser.add_argument('--minutes', type=float, help='stop after so many')
    parser.add_argument(
        '--data', nargs='+', default=[], metavar='SET=FOLDER', help='default: data/SET'
    )
    parser.add_argument('--results', default=RESULTS, help='default: results/study.jsonl')
    arguments = parser.parse_args(argv)
    if arguments.list:
        say(overview(arguments.results))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the training, like Ctrl-C
    deadline = time.time() + 60 * arguments.minutes if arguments.minutes else float('inf')
    study = Study(arguments.results, dict(w.split('=', 1) for w in arguments.data), deadline)
    try:
        for cell, row, seed in jobs():
            job = Job(cell, row, seed)
            if (
                cell in (arguments.cells or CELLS)
                and row in (arguments.rows or ROWS)
                and seed in (arguments.seeds or [seed])
                and job not in valid_lines(arguments.results)
            ):
                study.do(job)
    except OutOfTime:
        say('out of time; the same command goes on where this one stopped')
    except KeyboardInterrupt:
        sys.exit('interrupted; the same command goes on where this one stopped')
    except StudyError as error:
        sys.exit(f'study: {error}')


if __name__ == '__main__':
    main()

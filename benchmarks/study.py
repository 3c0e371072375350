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
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from plan import CELLS, ROWS, Cell, jobs

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RESULTS = os.path.join(ROOT, 'benchmarks', 'results', 'study.jsonl')
WORK_DIR = os.path.join(ROOT, 'work_dirs', 'study')
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
        """Its work directory, in that of the study."""
        row = ''.join(c if c.isalnum() else '-' for c in self.row)
        return os.path.join(self.cell, f'{row}-seed{self.seed}-v{CELLS[self.cell].version}')


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
    config: str, options: Sequence[str], folder: str, deadline: float = float('inf')
) -> List[Line]:
    """Run `tools/train.py` in a process of one thread, resuming what is in the folder.

    Returns:
        Commit and minutes of each attempt, the earlier ones included.

    Raises:
        StudyError: it failed.
        OutOfTime: the deadline came first.
    """
    command = [sys.executable, 'tools/train.py', config, '--work-dir', folder]
    if os.path.isfile(os.path.join(folder, 'last_checkpoint')):
        command.append('--resume')
    path = [os.path.join(ROOT, 'benchmarks'), ROOT, os.environ.get('PYTHONPATH', '')]
    variables = dict(os.environ, PYTHONPATH=os.pathsep.join(path), OMP_WAIT_POLICY='PASSIVE')
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
        variables[name] = '1'
    log = os.path.join(folder, 'output.log')
    earlier = attempts(folder)
    attempt: Line = {'commit': commit(), 'began': time.time()}
    write_attempts(folder, [*earlier, attempt])
    began = time.monotonic()
    with open(log, 'ab') as file:
        process = subprocess.Popen(
            [*command, '--cfg-options', *options],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=ROOT,
        )
    pid = 0
    try:
        while not pid and time.time() < deadline:
            time.sleep(1)
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    finally:  # also when interrupted: the minutes of every attempt count
        if not pid:
            process.terminate()
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        attempt['cpu_minutes'] = round((usage.ru_utime + usage.ru_stime) / 60, 2)
        attempt['wall_minutes'] = round((time.monotonic() - began) / 60, 2)
        write_attempts(folder, [*earlier, attempt])
    if not pid:
        raise OutOfTime
    if process.returncode != 0:
        with open(log, errors='replace') as file:
            end = ''.join(file.readlines()[-30:])
        raise StudyError(f'{folder} stopped with code {process.returncode}:\n{end}')
    return [*earlier, attempt]


def attempts(folder: str) -> List[Line]:
    """Commit and minutes of each attempt of a training.

    One that was killed could not write its minutes: those until its last checkpoint count, from
    which the next attempt goes on.
    """
    found = read_lines(os.path.join(folder, 'attempts.jsonl'))
    for attempt in found:
        if 'cpu_minutes' not in attempt:
            path = os.path.join(folder, 'last_checkpoint')
            end = os.path.getmtime(path) if os.path.isfile(path) else 0.0
            minutes = round(max(end - attempt['began'], 0) / 60, 2)
            attempt.update(cpu_minutes=minutes, wall_minutes=minutes)
    return found


def write_attempts(folder: str, found: Sequence[Line]) -> None:
    with open(os.path.join(folder, 'attempts.jsonl'), 'w') as file:
        file.writelines(json.dumps(attempt) + '\n' for attempt in found)


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


def finished(folder: str) -> Optional[Line]:
    """The line of the training in a folder; None when it did not finish or was removed."""
    try:
        with open(os.path.join(folder, 'line.json')) as file:
            line: Line = json.load(file)
    except FileNotFoundError:
        return None
    return line if os.path.isfile(checkpoint(folder)) else None


def checkpoint(folder: str) -> str:
    """The newest checkpoint in a folder; '' when there is none."""
    try:
        with open(os.path.join(folder, 'last_checkpoint')) as file:
            return os.path.join(folder, os.path.basename(file.read().strip()))
    except FileNotFoundError:
        return ''


def file_hash(path: str) -> str:
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()[:12]


def commit() -> str:
    """Of the code that trains, with a mark when it is changed."""

    def git(*words: str) -> str:
        command = ['git', '-C', ROOT, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    code = ['mmdet_detrdistill', 'tools', 'configs', 'benchmarks/configs']
    changes = git('status', '--porcelain', '--', *code)
    return git('rev-parse', '--short', 'HEAD') + ('+changes' if changes else '')


def environment() -> Line:
    """Date, versions and processor."""
    processor = platform.processor() or platform.machine()
    if os.path.isfile('/proc/cpuinfo'):
        with open('/proc/cpuinfo') as file:
            names = [line.split(':')[1].strip() for line in file if line.startswith('model name')]
        processor = names[0] if names else processor
    packages = ('torch', 'mmcv', 'mmengine', 'mmdet', 'mmrazor', 'numpy')
    return {
        'date': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'versions': {name: importlib.metadata.version(name) for name in packages},
        'processor': processor,
    }


# ---- the study


class Study:
    """The trainings of one call.

    Args:
        results: file of the lines.
        work_dir: folder of the trainings' work directories.
        data: folders of data sets that are not in `data/` of the repository.
        deadline: time after which no training runs on.
    """

    def __init__(
        self,
        results: str = RESULTS,
        work_dir: str = WORK_DIR,
        data: Optional[Dict[str, str]] = None,
        deadline: float = float('inf'),
    ) -> None:
        self.results = results
        self.work_dir = os.path.abspath(work_dir)
        self.data = data or {}
        self.deadline = deadline

    def folder(self, job: Job) -> str:
        return os.path.join(self.work_dir, job.folder)

    def data_root(self, cell: Cell) -> str:
        """Folder of the cell's data; shapes are made when they are missing."""
        if cell.data in self.data:
            return os.path.abspath(self.data[cell.data])
        root = os.path.join(ROOT, 'data', cell.data)
        if cell.shapes:
            arguments = [str(word) for item in cell.shapes for word in item]
            command = [sys.executable, 'tools/make_shapes.py', root, *arguments]
            os.makedirs(os.path.dirname(root), exist_ok=True)
            with open(f'{root}.lock', 'w') as file:  # two processes start at once
                fcntl.flock(file, fcntl.LOCK_EX)
                subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return root

    def do(self, job: Job) -> Optional[Line]:
        """Train a job, before it what it starts from; None when another process is at it."""
        cell = CELLS[job.cell]
        options, origins = cell.overrides(job.row), {}
        distilled = job.row not in ('teacher', 'alone')
        if cell.backbone:
            path, origins['backbone'] = self.trained(
                cell.backbone, 'teacher' if job.row == 'teacher' else 'alone'
            )
            start = f'model.{"architecture." if distilled else ""}backbone.init_cfg'
            weights = {'type': 'Pretrained', 'checkpoint': path, 'prefix': 'backbone.'}
            options = [*(f'{start}.{key}={value}' for key, value in weights.items()), *options]
        if distilled:
            path, origins['teacher'] = self.trained(
                ROWS[job.row].teacher or cell.teacher or job.cell
            )
            options = [f'model.teacher_ckpt={path}', *options]
        return self.train(job, options, **origins)

    def trained(self, cell: str, row: str = 'teacher') -> Tuple[str, Line]:
        """A checkpoint that other trainings use, trained when it is missing; its mAP and hash.

        Raises:
            StudyError: trained again, it is not what it was.
        """
        job = Job(cell, row, CELLS[cell].teacher_seed)
        folder = self.folder(job)
        line = finished(folder)
        while line is None:
            line = self.do(job)
            if line is None:  # another process trains it
                if time.time() > self.deadline:
                    raise OutOfTime
                time.sleep(5)
        path, found = checkpoint(folder), line['final']['mAP']
        recorded = valid_lines(self.results)[job]['final']['mAP']
        if abs(recorded - found) > TOLERANCE:
            raise StudyError(
                f'{row} of {cell} has mAP {found}, the recorded one {recorded}: what is trained '
                'from it is not comparable; raise the version of the cell in plan.py'
            )
        return path, {'mAP': found, 'checkpoint': file_hash(path)}

    def train(self, job: Job, options: Sequence[str], **more: Any) -> Optional[Line]:
        """Train, unless that is done, and write the line; None when another process is at it."""
        cell = CELLS[job.cell]
        folder = self.folder(job)
        with locked(folder) as mine:
            if not mine:
                return None
            line = finished(folder)
            if line is None:
                say(f'{datetime.datetime.now():%H:%M} {job.cell}: {job.row}, seed {job.seed}')
                data = self.data_root(cell)
                words = [f'data_root={data}', f'randomness.seed={job.seed}', *options]
                made = train(cell.config(job.row), words, folder, self.deadline)
                line = {**self.line(job, words, made), **more}
                with open(os.path.join(folder, 'line.json'), 'w') as file:
                    json.dump(line, file)
                minutes = f'{line["cpu_minutes"]} CPU minutes of {line["wall_minutes"]}'
                say(f'{datetime.datetime.now():%H:%M}   mAP {line["final"]["mAP"]}, {minutes}')
            if job not in valid_lines(self.results):
                append(self.results, line)
            return line

    def line(self, job: Job, options: Sequence[str], made: Sequence[Line]) -> Line:
        cell = CELLS[job.cell]
        curve = read_curve(self.folder(job))
        command = ['python', 'tools/train.py', cell.config(job.row), '--cfg-options', *options]
        text = ' '.join(command).replace(self.data_root(cell), f'data/{cell.data}')
        return {
            'cell': job.cell,
            'row': job.row,
            'seed': job.seed,
            'version': cell.version,
            'config': cell.config(job.row),
            'overrides': cell.overrides(job.row),
            'command': text.replace(self.work_dir, 'work_dirs/study'),
            'commit': ', '.join(sorted({attempt['commit'] for attempt in made})),
            'attempts': len(made),
            'cpu_minutes': round(sum(attempt['cpu_minutes'] for attempt in made), 2),
            'wall_minutes': round(sum(attempt['wall_minutes'] for attempt in made), 2),
            **environment(),
            'curve': [[point['epoch'], point['mAP']] for point in curve],
            'final': {name: value for name, value in curve[-1].items() if name != 'epoch'},
        }


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
    parser.add_argument('--work-dir', default=WORK_DIR, help='default: work_dirs/study')
    arguments = parser.parse_args(argv)
    if arguments.list:
        say(overview(arguments.results))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the training, like Ctrl-C
    deadline = time.time() + 60 * arguments.minutes if arguments.minutes else float('inf')
    data = dict(word.split('=', 1) for word in arguments.data)
    study = Study(arguments.results, arguments.work_dir, data, deadline)
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

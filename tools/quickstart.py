"""Train a teacher, a student alone and the same student distilled; compare them by COCO mAP.

    python tools/quickstart.py                          # synthetic shapes, nothing to prepare
    python tools/quickstart.py --seeds 3                # three seeds: mean and spread
    python tools/quickstart.py --long                   # three times as many epochs
    python tools/quickstart.py --data-root DIR          # your own data in COCO format
    python tools/quickstart.py --data-root DIR --unlabelled DIR2    # more images, without labels
    python tools/quickstart.py --fast                   # two epochs of everything, to see it run

A second call reuses what is finished and resumes what was interrupted. The results are a table, and
in the work directory a page, `report.html` (see `tools/report.py`). The two students of one seed
start from the same weights and see the same batches in the same order.
"""

import argparse
import json
import os
import signal
import sys
import time
import warnings
from functools import partial
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from make_shapes import make_shapes
from run_report.page import Report
from run_report.summary import LABELS
from run_report.work_dir import TrainingRun, read_work_dir
from training_runs import Run, RunError, file_hash, package_hash, read_words, train_all

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Plan(NamedTuple):
    """The three configs, and the minutes of the stages that train, on two cores with one seed."""

    title: str
    teacher: str
    student: str
    distilled: str
    minutes: Tuple[int, int]


SHAPES = Plan(
    'Deformable DETR on synthetic shapes',
    'quickstart/deformable-detr_teacher_1xb8-10e_shapes.py',
    'quickstart/deformable-detr_student_1xb8-6e_shapes.py',
    'quickstart/detrdistill_deformable-detr_student-from-teacher_1xb8-6e_shapes.py',
    (5, 4),
)
COCO_FORMAT = Plan(
    'Deformable DETR on COCO-format data',
    'coco_format/deformable-detr_teacher_1xb4-24e_coco-format.py',
    'coco_format/deformable-detr_student_1xb4-12e_coco-format.py',
    'coco_format/detrdistill_deformable-detr_student-from-teacher_1xb4-12e_coco-format.py',
    (9, 5),
)


LONG = 3  # times as many epochs
say = partial(print, flush=True)


def lengthened(path: str) -> List[str]:
    """Return overrides for `LONG` times the epochs of a config, its schedule stretched."""
    from mmengine.config import Config  # slow

    cfg = Config.fromfile(path)
    epochs, milestones = LONG * cfg.train_cfg.max_epochs, cfg.param_scheduler[1].get('milestones')
    words = [f'train_cfg.max_epochs={epochs}', f'param_scheduler.1.end={epochs}']
    if milestones:
        words.append(f'param_scheduler.1.milestones={[LONG * epoch for epoch in milestones]}')
    return [word.replace(' ', '') for word in words]


def count_data(path: str, options: Sequence[str]) -> Dict[str, Any]:
    """Count images and boxes of both splits, and hash the annotation files.

    Raises:
        FileNotFoundError, ValueError: see `open_config`.
    """
    from mmdet_detrdistill.config.read import open_config  # slow

    cfg = open_config(path, read_words(options))
    found: Dict[str, Any] = {'root': cfg.data_root}
    paths = [os.path.join(cfg.data_root, cfg[key]) for key in ('train_ann', 'val_ann')]
    for split, path in zip(('train', 'val'), paths):
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
        found[f'{split}_images'] = len(content['images'])
        found[f'{split}_boxes'] = len(content['annotations'])
    found['hash'] = file_hash(*paths)
    return found


def run_all(arguments: argparse.Namespace) -> Report:
    """Run the four stages; return the report."""
    plan = COCO_FORMAT if arguments.data_root else SHAPES
    configs = {role: os.path.join(ROOT, 'configs', getattr(plan, role)) for role in LABELS}
    fast, seeds = arguments.fast, range(arguments.seeds)
    factor = LONG if arguments.long else 1
    minutes = [f'about {factor * m} min on two cores and one seed' for m in plan.minutes]
    times = ['seconds'] * 2 if fast else minutes

    say('\nstage 1 of 4: data')
    data_root = arguments.data_root
    if data_root is None:
        data_root = os.path.join('data', 'shapes-fast' if fast else 'shapes')
        counts = {'train': 64, 'val': 32} if fast else {'train': 1000, 'val': 200}
        written = make_shapes(data_root, seed=0, **counts)
        say(f'  {"wrote" if written else "reused"} the shapes set in {data_root}')
    options = [f'data_root={data_root}']
    if fast:
        options += ['train_cfg.max_epochs=2', 'default_hooks.logger.interval=2']
    options += arguments.cfg_options
    data = count_data(configs['teacher'], options)
    say(f'  {data["train_images"]} training and {data["val_images"]} validation images')

    def run(role: str, seed: int, more: Sequence[str] = (), inputs: Sequence[str] = ()) -> Run:
        longer = lengthened(configs[role]) if arguments.long else []
        return Run(
            name='teacher' if role == 'teacher' else f'{LABELS[role]}, seed {seed}',
            slug=f'{role}-seed{seed}',
            config=configs[role],
            options=[*longer, *options, f'randomness.seed={seed}', *more],
            root=arguments.work_dir,
            inputs=(data['hash'], *inputs),
        )

    say(f'\nstage 2 of 4: the teacher, and as a baseline the student alone ({times[0]})')
    teacher = run('teacher', 0)
    students = [run('student', seed) for seed in seeds]
    train_all([teacher, *students], say)

    say(f'\nstage 3 of 4: the same student, start and batches, distilled ({times[1]})')
    given = [f'model.teacher_ckpt={teacher.checkpoint}']
    if arguments.unlabelled:
        given.append(f'unlabelled={arguments.unlabelled}')
    inputs = (package_hash(), os.path.basename(teacher.folder))
    distilled = [run('distilled', seed, given, inputs) for seed in seeds]
    train_all(distilled, say)

    say('\nstage 4 of 4: the report')
    runs = [finished(each) for each in (teacher, *students, *distilled)]
    title = plan.title + (', two epochs to see it run' if fast else '')
    command = ' '.join(['python', 'tools/quickstart.py', *arguments.given])
    more = dict(data=data, fast=fast)
    return Report(runs, title, command, seconds=1.0 if fast else 6.0, more=more)


def finished(run: Run) -> TrainingRun:
    """Read a training; where an interruption cut off its last evaluation, evaluate."""
    found = read_work_dir(run.folder)
    if found.length != run.epochs:
        from run_report.measure import evaluate  # slow

        evaluate(found)
    return found


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data-root', help='folder of your COCO-format data (default: shapes)')
    parser.add_argument(
        '--unlabelled', metavar='DIR', help='images without labels for the distilled student'
    )
    parser.add_argument('--seeds', type=int, default=1, help='students per kind (default 1)')
    parser.add_argument('--fast', action='store_true', help='two epochs each, on few shapes')
    parser.add_argument('--long', action='store_true', help=f'{LONG} times as many epochs')
    parser.add_argument('--work-dir', help='default: work_dirs/quickstart, or one per data set')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for all three configs'
    )
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1:
        parser.error(f'--seeds must be >= 1, got {arguments.seeds}')
    wrong = [option for option in arguments.cfg_options if '=' not in option]
    if wrong:
        parser.error(f'--cfg-options takes KEY=VALUE, got {", ".join(wrong)}')
    if arguments.work_dir is None:
        name = 'quickstart-fast' if arguments.fast else 'quickstart'
        if arguments.data_root:
            name += '-' + os.path.basename(os.path.abspath(arguments.data_root))
        arguments.work_dir = os.path.join('work_dirs', name)
    arguments.given = list(sys.argv[1:] if argv is None else argv)
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = parse_arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the trainings, like Ctrl-C
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    began = time.monotonic()
    try:
        report = run_all(arguments)
    except (RunError, FileExistsError, FileNotFoundError, ValueError) as error:
        sys.exit(f'\nquickstart: {error}')
    except KeyboardInterrupt:
        sys.exit('\nquickstart: interrupted; the same command resumes')
    minutes = round((time.monotonic() - began) / 60, 1)
    report.facts['wall_minutes'] = minutes
    paths = report.write(arguments.work_dir)
    say('\n' + report.table)
    say(f'\n{minutes} minutes; wrote ' + ' and '.join(paths))


if __name__ == '__main__':
    main()

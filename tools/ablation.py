"""Train a student with one part of the method changed at a time; mAP by row, over seeds.

    python tools/ablation.py                                       # every row, three seeds
    python tools/ablation.py --pair cross_family --rows alone all  # another pair of detectors
    python tools/ablation.py --fast                                # one seed, a few steps

Data and teacher are made when they are not there. A second call reuses what is finished and resumes
what was interrupted. Runs of one seed start from the same weights and see the same batches. The
result is a table, and `ablation.json` in the work directory.
"""

import argparse
import json
import os
import signal
import sys
import warnings
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from make_shapes import make_shapes
from run_report.summary import hardware, now, spread, versions
from training_runs import Run, RunError, file_hash, package_hash, train_all

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Pair(NamedTuple):
    """The three configs of a pair of detectors, relative to `configs/`."""

    teacher: str
    student: str
    distilled: str


PAIRS = {
    'quickstart': Pair(
        'quickstart/deformable-detr_teacher_1xb4-10e_shapes.py',
        'ablation/deformable-detr_student_1xb4-2e_shapes.py',
        'ablation/detrdistill_deformable-detr_student-from-teacher_1xb4-2e_shapes.py',
    ),
    'cross_family': Pair(
        'cross_family/deformable-detr-two-stage_teacher_1xb4-6e_shapes.py',
        'cross_family/dab-detr_student_1xb4-4e_shapes.py',
        'cross_family/detrdistill_dab-detr_student-from-two-stage_1xb4-4e_shapes.py',
    ),
}
LOSSES = {'logits': 'LogitsKDLoss', 'feature': 'FeatureKDLoss', 'assign': 'AssignKDLoss'}
ALIGNED = 'model.distiller.distill_losses.loss_aligned_kd.type=AlignedKDLoss'
FAST = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'default_hooks.logger.interval=2']


def option(loss: str, name: str, value: Any) -> str:
    return f'model.distiller.distill_losses.loss_{loss}_kd.{name}={value}'


def without(*losses: str) -> List[str]:
    return [f'model.distiller.distill_losses.loss_{loss}_kd=None' for loss in losses]


def all_rows() -> Dict[str, List[str]]:
    """Overrides of the distilled config, by row; the row `alone` trains the student's own config.

    The rows `loss: option=value` are the preset `paper` with one option as in `released`, one for
    each that differs.
    """
    from mmdet_detrdistill import losses

    rows = {
        'alone': [],
        **{loss: without(*(other for other in LOSSES if other != loss)) for loss in LOSSES},
        'aligned': [*without(*LOSSES), ALIGNED],
        'all': [],
        'released': [option(loss, 'preset', 'released') for loss in LOSSES],
    }
    for loss, module in LOSSES.items():
        make = getattr(losses, module)
        paper, released = (vars(make(preset=preset).options) for preset in ('paper', 'released'))
        for name, value in released.items():
            if value != paper[name]:
                rows[f'{loss}: {name}={value}'] = [option(loss, name, value)]
    return rows


def run_all(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Data, teacher, every row with every seed; returns the report."""
    pair = Pair(*(os.path.join(ROOT, 'configs', path) for path in PAIRS[arguments.pair]))
    rows = all_rows()
    unknown = [row for row in arguments.rows or [] if row not in rows]
    if unknown:
        raise ValueError(f'unknown rows {unknown}; there are {list(rows)}')
    rows = {row: rows[row] for row in arguments.rows or rows}

    data_root = os.path.join('data', 'shapes-fast' if arguments.fast else 'shapes')
    counts = {'train': 64, 'val': 32} if arguments.fast else {'train': 1000, 'val': 200}
    make_shapes(data_root, seed=0, **counts)
    names = [f'annotations/instances_{split}.json' for split in ('train', 'val')]
    data = file_hash(*(os.path.join(data_root, name) for name in names))
    common = [f'data_root={data_root}', *(FAST if arguments.fast else [])]

    teacher = Run(
        name='teacher',
        slug='teacher-seed0',
        config=pair.teacher,
        options=[*common, 'randomness.seed=0'],
        root=os.path.join(arguments.work_dir, arguments.pair),
        inputs=(data,),
    )
    train_all([teacher], say)
    inputs = (data, package_hash(), os.path.basename(teacher.folder))
    runs: Dict[str, List[Run]] = {row: [] for row in rows}
    for seed in range(arguments.seeds):
        for row, options in rows.items():
            alone = row == 'alone'
            given = [] if alone else [f'model.teacher_ckpt={teacher.checkpoint}', *options]
            run = Run(
                name=f'{row}, seed {seed}',
                slug=f'{"".join(c if c.isalnum() else "-" for c in row)}-seed{seed}',
                config=pair.student if alone else pair.distilled,
                options=[*common, f'randomness.seed={seed}', *given],
                root=os.path.join(arguments.work_dir, arguments.pair),
                inputs=(data,) if alone else inputs,
            )
            runs[row].append(run)
    train_all([group[seed] for seed in range(arguments.seeds) for group in runs.values()], say)
    return {
        'pair': arguments.pair,
        'command': ' '.join(['python', 'tools/ablation.py', *arguments.given]),
        'date': now(),
        'hardware': hardware(),
        'versions': versions(),
        'teacher': teacher.curve()[-1],
        'rows': {row: [run.curve()[-1] for run in group] for row, group in runs.items()},
    }


def table(report: Dict[str, Any]) -> str:
    """Mean and standard deviation over the seeds, and the gain over `alone` of equal seeds."""
    rows = report['rows']
    baseline = rows.get('alone')
    lines = ['| row | mAP | AP50 | gain in mAP | by seed |', '|---|---|---|---|---|']
    for row, finals in rows.items():
        cells = [
            row,
            *(text(spread([final[name] for final in finals])) for name in ('mAP', 'AP50')),
        ]
        if row == 'alone' or baseline is None:
            cells += ['', '']
        else:
            gains = [round(own['mAP'] - other['mAP'], 1) for own, other in zip(finals, baseline)]
            cells += [text(spread(gains), '+'), ', '.join(f'{gain:+.1f}' for gain in gains)]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def text(values: Dict[str, float], sign: str = '') -> str:
    return f'{values["mean"]:{sign}.1f} ± {values["std"]:.1f}'


def say(line: str) -> None:
    print(line, flush=True)


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--pair', choices=list(PAIRS), default='quickstart')
    parser.add_argument('--rows', nargs='+', metavar='ROW', help='only these (default: all)')
    parser.add_argument('--seeds', type=int, help='default 3')
    parser.add_argument('--fast', action='store_true', help='one epoch of few images')
    parser.add_argument('--work-dir', help='default work_dirs/ablation')
    arguments = parser.parse_args(argv)
    name = 'ablation-fast' if arguments.fast else 'ablation'
    arguments.work_dir = arguments.work_dir or os.path.join('work_dirs', name)
    arguments.seeds = arguments.seeds or (1 if arguments.fast else 3)
    arguments.given = list(sys.argv[1:] if argv is None else argv)
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = parse_arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the trainings, like Ctrl-C
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    try:
        report = run_all(arguments)
    except (RunError, FileExistsError, FileNotFoundError, ValueError) as error:
        sys.exit(f'\nablation: {error}')
    except KeyboardInterrupt:
        sys.exit('\nablation: interrupted; the same command goes on where this one stopped')
    path = os.path.join(arguments.work_dir, arguments.pair, 'ablation.json')
    with open(path, 'w') as file:
        json.dump(report, file, indent=1)
    say(f'\nteacher: {report["teacher"]["mAP"]:.1f} mAP\n\n{table(report)}\n\nwrote {path}')


if __name__ == '__main__':
    main()

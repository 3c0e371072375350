"""Everything that needs a GPU, in one command, for a machine that is there for minutes only.

    python benchmarks/gpu.py OUT [--minutes 14] [--only PART ...]
    python benchmarks/gpu.py OUT --device cpu --fast     # runs to the end without a GPU

In the order of their worth: the tests that need a GPU, the step at the stock size, and a short
training in full and in mixed precision, resumed and exported. Each part is a process of its own
with a time limit, so that one that fails, hangs or finds no time left loses no other. OUT/gpu.json
is written after each part, OUT also has their logs. The exit code is 0 if all went well.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

ROOT = Path(__file__).resolve().parents[1]
STOCK = {
    'deformable': 'deformable_detr/detrdistill_deformable-detr_r50-from-r101_16xb2-50e_coco.py',
    'dino': 'dino/detrdistill_dino-4scale_r50-from-r101_8xb2-12e_coco.py',
}
TEACHER = 'quickstart/deformable-detr_teacher_1xb8-10e_shapes.py'
DISTILLED = 'quickstart/detrdistill_deformable-detr_student-from-teacher_1xb8-6e_shapes.py'
RESUME = 'test_resume_after_a_kill_equals_the_uninterrupted_run'
TESTS = ['tests/distillation/test_gpu.py', f'tests/checkpoints/test_resume.py::{RESUME}']
#: dtype of the step, and options
COMPILED = ['--cfg-options', 'model.teacher_pass.compile.dynamic=True']
FORMS = [(dtype, more) for more in ([], COMPILED) for dtype in ('float32', 'float16', 'bfloat16')]
#: what a failure says that is a known limit: MMCV's deformable attention on CUDA
KNOWN = "not implemented for 'BFloat16'"


class Part(NamedTuple):
    """One process: its time limit in seconds, the arguments of Python, the report it writes."""

    name: str
    limit: float
    arguments: Sequence[Any]
    report: Optional[Path] = None


def make_parts(args: argparse.Namespace) -> List[Part]:
    """Everything that is run, the most valuable first; each works on what those before left."""
    out, fast = args.out, args.fast
    size = '--size 64 96 --images 1 --repeats 1 --warmup 0' if fast else '--repeats 10 --warmup 3'
    images = '--train 8 --val 4' if fast else '--train 200 --val 50'

    def step(name: str, config: str, dtype: str, more: List[str]) -> Part:
        name = f'step {name} {dtype}{" compiled" if more else ""}'
        report = out / f'{name}.json'
        arguments = ['benchmarks/benchmark.py', f'configs/{config}', *size.split(), *more]
        device = ['--device', args.device, '--autocast', dtype, '--json', report]
        return Part(name, 100, [*arguments, *device], report)

    def training(name: str, config: str, folder: str, epochs: int, *flags: str) -> Part:
        options = [f'data_root={out}/shapes', f'train_cfg.max_epochs={epochs}']
        if config == DISTILLED:
            options.append(f'model.teacher_ckpt={out}/teacher/epoch_1.pth')
        arguments = ['tools/train.py', f'configs/{config}', '--work-dir', out / folder, *flags]
        return Part(name, 90, [*arguments, '--cfg-options', *options])

    detectors, forms = ({'small': DISTILLED}, FORMS[:1]) if fast else (STOCK, FORMS)
    steps = [step(*named, *form) for form in forms for named in detectors.items()]
    first, others = steps[: len(detectors)], steps[len(detectors) :]
    if args.device == 'cuda':  # MMEngine has no mixed precision on a CPU
        others.insert(0, training('mixed precision', DISTILLED, 'mixed', 1, '--amp'))
    export = ['tools/export_student.py', f'configs/{DISTILLED}', out / 'distilled/epoch_2.pth']
    return [
        Part('tests', 180, ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', *TESTS[: 2 - fast]]),
        *first,
        Part('shapes', 60, ['tools/make_shapes.py', out / 'shapes', *images.split()]),
        training('teacher', TEACHER, 'teacher', 1),
        training('distilled', DISTILLED, 'distilled', 1),
        *others,
        training('resumed', DISTILLED, 'distilled', 2, '--resume'),
        Part('exported', 60, [*export, '--out', out, '--cfg-options', f'data_root={out}/shapes']),
    ]


def run(part: Part, args: argparse.Namespace, left: float) -> Dict[str, Any]:
    """Run a part for as long as its limit and the time that is left allow."""
    if left <= 0:
        return dict(status='skipped: no time left')
    log, began = args.out / f'{part.name.replace(" ", "-")}.log', time.monotonic()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    settings = {**os.environ, 'PYTHONPATH': path, 'PYTHONUNBUFFERED': '1'}
    if args.device == 'cpu':
        settings['CUDA_VISIBLE_DEVICES'] = ''
    with open(log, 'wb') as output:
        process = subprocess.Popen(
            [sys.executable, *map(str, part.arguments)],
            cwd=ROOT,
            env=settings,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(min(part.limit * (5 if args.fast else 1), left))
            status = 'ok' if code == 0 else f'failed: exit code {code}'
        except subprocess.TimeoutExpired:
            status = 'failed: out of time'
        finally:
            with suppress(ProcessLookupError):  # and what it has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = log.read_text(errors='replace')
    if status != 'ok' and KNOWN in text:
        status = f'unsupported: {KNOWN}'
    found = dict(status=status, seconds=round(time.monotonic() - began, 1), output=text[-2000:])
    if status == 'ok' and part.report:
        found['report'] = json.loads(part.report.read_text())
    return found


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='folder for gpu.json and logs')
    parser.add_argument('--minutes', type=float, default=14, help='for all parts together')
    parser.add_argument('--only', nargs='+', default=[''], help='parts of which a name begins so')
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument('--fast', action='store_true', help='all tiny; the limits are longer')
    args = parser.parse_args(argv)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    end, file = time.monotonic() + 60 * args.minutes, args.out / 'gpu.json'
    results = json.loads(file.read_text()) if file.exists() else {}
    chosen = [part for part in make_parts(args) if part.name.startswith(tuple(args.only))]
    for part in chosen:
        results[part.name] = run(part, args, end - time.monotonic())
        file.write_text(json.dumps(results, indent=1))
        print(f'{part.name:34s} {results[part.name]["status"]}', flush=True)
    bad = ('failed', 'skipped')
    return int(any(results[part.name]['status'].startswith(bad) for part in chosen))


if __name__ == '__main__':
    sys.exit(main())

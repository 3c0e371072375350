"""Work directories as MMEngine leaves them, written by hand, and the tools that read them."""

import importlib
import json
import sys
from pathlib import Path

from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
NAMES = ('', '_50', '_75', '_s', '_m', '_l')


def tool(name):
    """A module of tools/, imported as its neighbours import it."""
    if str(TOOLS) not in sys.path:
        sys.path.insert(0, str(TOOLS))
    return importlib.import_module(name)


def metrics(score, epoch, classes=None):
    """A line of an evaluation; large objects are not there."""
    line = {f'coco/bbox_mAP{name}': -1.0 if name == '_l' else score for name in NAMES}
    line.update({f'coco/{name}_precision': value for name, value in (classes or {}).items()})
    return {**line, 'time': 0.1, 'data_time': 0.0, 'step': epoch}


def train_line(step, epoch, **losses):
    return dict(loss=sum(losses.values()), **losses, lr=0.1, epoch=epoch, iter=step, step=step)


def write_log(folder, stamp, lines, seed=None):
    path = Path(folder) / stamp / 'vis_data'
    path.mkdir(parents=True)
    (path / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    log = '    Python: 3.11.7 (main, May 9)\n    PyTorch: 2.13.0+cpu\n    MMEngine: 0.10.7\n'
    (path.parent / f'{stamp}.log').write_text(log + (f'    seed: {seed}\n' if seed else ''))


STUDENT = dict(type='DETR', num_queries=5)


def work_dir(root, name, model, scores, seed=0, classes=(), **settings):
    """A work directory whose epochs scored `scores`; `classes`: AP of each in the last."""
    folder = root / name
    folder.mkdir()
    config = Config(dict(model=model, randomness=dict(seed=seed), **settings))
    config.dump(folder / f'{name.rstrip("0123456789")}.py')
    lines = []
    for epoch, score in enumerate(scores, 1):
        lines.append(train_line(10 * epoch, epoch, loss_cls=3.0 / epoch, loss_bbox=1.0))
        lines.append(metrics(score, epoch, dict(classes)))
    write_log(folder, '20240101_000000', lines)
    return str(folder)


def distillation(teacher, student=None):
    return dict(
        type='DETRDistill',
        architecture=student or STUDENT,
        teacher='t.py',
        teacher_ckpt=f'{teacher}/epoch_2.pth',
    )

"""From a student, a teacher and its checkpoint to a distillation config that is kept, and a run."""

import os
import os.path as osp
from argparse import Namespace
from typing import Any, Dict, Iterable, Optional

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.runner import Runner

from .check.run import Rows, check, quiet
from .checkpoints.resume import check_start, make_resumable
from .config.read import read_config
from .config.write import compose


def distill(
    student: str,
    teacher: str,
    teacher_ckpt: str,
    *,
    data_root: Optional[str] = None,
    options: Optional[Dict[str, Any]] = None,
    out: Optional[str] = None,
    work_dir: Optional[str] = None,
) -> Runner:
    """Write the distillation config, check it on the first batch, train.

    The call behind `tools/distill.py`; see `write_config` for the arguments.

    Args:
        work_dir: folder for logs and checkpoints; None: work_dirs/NAME of the config.

    Returns:
        The runner as it is after training.

    Raises:
        What `write_config` and `config_check.check` raise: nothing is trained then.
    """
    path = write_config(
        student, teacher, teacher_ckpt, data_root=data_root, options=options, out=out
    )
    for _ in check_written(path):
        pass
    return train(path, work_dir)


def write_config(
    student: str,
    teacher: str,
    teacher_ckpt: str,
    *,
    data_root: Optional[str] = None,
    options: Optional[Dict[str, Any]] = None,
    out: Optional[str] = None,
) -> str:
    """Write the config that distils `teacher` into `student`: the student's own and a wrapper.

    Args:
        student: `mmdet::folder/config.py` or a file.
        teacher: likewise.
        teacher_ckpt: the teacher's checkpoint.
        data_root: folder of a data set in COCO format, see `coco_format`; None: the data of the
            student's config.
        options: overrides by dotted name, part of what is written. `model.architecture.` and
            `model.teacher.` stand before a setting of the student's and of the teacher's model.
        out: file to write; None: detrdistill_STUDENT-from-TEACHER.py in the working directory.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: no such config.
        ValueError: the student's config is no plain detector, or an option belongs nowhere.
        FileExistsError: the file is there and says something else.
    """
    base = read_base(student, 'student')
    read_base(teacher, 'teacher')
    if out is None:
        names = (osp.splitext(osp.basename(path))[0] for path in (student, teacher))
        out = 'detrdistill_{}-from-{}.py'.format(*names)
    text = compose(student, base, teacher, teacher_ckpt, data_root, dict(options or {}), out)
    if osp.exists(out):
        with open(out, encoding='utf-8') as file:
            if file.read() == text:
                return out
        raise FileExistsError(
            f'{out} exists and says something else: train it with tools/train.py, name another '
            'file (--out), or remove it'
        )
    os.makedirs(osp.dirname(osp.abspath(out)), exist_ok=True)
    with open(out, 'w', encoding='utf-8') as file:
        file.write(text)
    return out


def read_base(path: str, role: str) -> Config:
    """The config that a side is named by.

    Raises:
        FileNotFoundError, ValueError: see `write_config`.
    """
    if '::' not in path and not osp.isfile(path):
        raise FileNotFoundError(
            f'{role} config {path} does not exist (working directory: {os.getcwd()}); one of '
            'MMDetection is named as mmdet::folder/file.py'
        )
    config = get_config(path) if '::' in path else Config.fromfile(path)
    if 'bbox_head' not in config.get('model', {}):
        raise ValueError(
            f'{role} config {path} is not that of a detector: its model has no bbox_head'
        )
    return config


def read_written(path: str, work_dir: Optional[str] = None, needs_data: bool = True) -> Config:
    """A config as the tools read it."""
    arguments = dict(config=path, cfg_options=None, work_dir=work_dir)
    return read_config(Namespace(launcher='none', local_rank=0, **arguments), needs_data)


def check_written(path: str, random_teacher: bool = False, train: bool = True) -> Iterable[Rows]:
    """`config_check.check` of a written config, on its own data.

    Args:
        random_teacher: the checkpoint is not there yet.
        train: the training data have to be there.

    Raises:
        FileNotFoundError: they are not, or `check` says so.
    """
    with quiet():
        config = read_written(path, needs_data=train)
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        for rows in check(config, random_teacher=random_teacher, device=device):
            source = dict(rows).get('batch', '')
            if train and 'missing' in source:
                raise FileNotFoundError(
                    f'no training data: {source.split("since ")[1]}. Name your own in COCO format '
                    '(--data-root), or the place of those that the config names'
                )
            yield rows


def train(path: str, work_dir: Optional[str] = None) -> Runner:
    """Train a written config as `tools/train.py` does."""
    config = read_written(path, work_dir)
    make_resumable(config)
    runner = Runner.from_cfg(config)
    check_start(config, runner.model)
    runner.train()
    return runner


def batch_note(config: Config) -> str:
    """A sentence when the schedule is meant for another batch size, else ''."""
    scale = config.get('auto_scale_lr') or {}
    meant, batch = scale.get('base_batch_size'), config.train_dataloader.get('batch_size')
    if scale.get('enable') or None in (meant, batch) or meant == batch:
        return ''
    return (
        f'The learning rate of this schedule is meant for batches of {meant}, one GPU here makes '
        f'{batch}: --cfg-options auto_scale_lr.enable=True scales it.'
    )

"""Python calls: write a distillation config, check it, train, evaluate."""

import os
import os.path as osp
from typing import Any, Dict, Optional, Sequence

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from .check.run import check
from .checkpoints.export import student_config, student_state_dict
from .checkpoints.read import load_checkpoint_file, load_state_strictly, unwrap_model
from .checkpoints.resume import check_start, make_resumable, newest_checkpoint
from .config.launch import join_processes, scale_learning_rate, use_mixed_precision
from .config.load import load_config
from .config.read import open_config
from .config.write import RECOMMENDED, compose, write_loadable
from .distillation.optimizer import use_student_names


def distill(
    student: str,
    teacher: str,
    teacher_ckpt: str,
    *,
    data_root: Optional[str] = None,
    losses: Sequence[str] = RECOMMENDED,
    options: Optional[Dict[str, Any]] = None,
    out: Optional[str] = None,
    work_dir: Optional[str] = None,
) -> Runner:
    """Write the distillation config, check it on the first batch, train.

    What `tools/distill.py` does; see `write_config` for the arguments.

    Args:
        work_dir: folder for logs and checkpoints; None: work_dirs/NAME of the config.

    Returns:
        The runner as it is after training.

    Raises:
        What `write_config` and `check.run.check` raise: nothing is trained then.
    """
    path = write_config(
        student,
        teacher,
        teacher_ckpt,
        data_root=data_root,
        losses=losses,
        options=options,
        out=out,
    )
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    for _ in check(open_config(path), device=device, needs_data=True):
        pass
    return train(open_config(path), work_dir)


def write_config(
    student: str,
    teacher: str,
    teacher_ckpt: str,
    *,
    data_root: Optional[str] = None,
    losses: Sequence[str] = RECOMMENDED,
    options: Optional[Dict[str, Any]] = None,
    out: Optional[str] = None,
) -> str:
    """Write the config that distils `teacher` into `student`: the student's own and a wrapper.

    Args:
        student: `mmdet::folder/config.py` or a file. What a file in MMEngine's pure Python style
            holds is copied, since no config can inherit from it and name its model.
        teacher: likewise.
        teacher_ckpt: the teacher's checkpoint.
        data_root: folder of a data set in COCO format, see `coco_format`; None: the data of the
            student's config.
        losses: some of 'logits', 'feature', 'assign', 'aligned'; 'paper' stands for the first
            three, those of DETRDistill.
        options: overrides by dotted name, part of what is written. `model.architecture.` and
            `model.teacher.` stand before a setting of the student's and of the teacher's model.
        out: file to write; None: detrdistill_STUDENT-from-TEACHER.py in the working directory.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: no such config.
        ValueError: a side's config is no plain detector, a loss is unknown, or an option belongs
            nowhere.
        FileExistsError: the file is there and says something else.
    """
    sides = dict(student=student, teacher=teacher)
    configs = {role: load_config(path, f'{role} config') for role, path in sides.items()}
    for role, config in configs.items():
        if not any(name.endswith('head') for name in config.model):
            raise ValueError(
                f'{role} config {sides[role]} is not that of a detector: its model has no head'
            )
    if out is None:
        names = (osp.splitext(osp.basename(path))[0] for path in (student, teacher))
        out = 'detrdistill_{}-from-{}.py'.format(*names)
    base = configs['student']
    given = dict(options or {})
    text = compose(student, base, teacher, teacher_ckpt, data_root, given, out, losses)
    if osp.exists(out):
        with open(out, encoding='utf-8') as file:
            if file.read() == text:
                return out
        raise FileExistsError(
            f'{out} exists and says something else: train it with tools/train.py, name another '
            'file (--out), or remove it'
        )
    os.makedirs(osp.dirname(osp.abspath(out)), exist_ok=True)
    write_loadable(text, out)
    return out


def train(
    config: Config,
    work_dir: Optional[str] = None,
    *,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: Optional[str] = None,
) -> Runner:
    """Train a detector, or distil one, as `tools/train.py` does.

    Args:
        config: as `config.read.open_config` gives it; changed in place.
        work_dir: folder for logs and checkpoints; None: the config's.
        amp: mixed precision.
        auto_scale_lr: scale the learning rate to the actual batch size.
        resume: a checkpoint to go on from, 'auto' for the newest in the work folder.

    Returns:
        The runner as it is after training.

    Raises:
        ValueError: an option that the config or the machine does not allow.
        CheckpointError: see `checkpoints.resume.check_start`.
    """
    if work_dir is not None:
        config.work_dir = work_dir
    if amp:
        use_mixed_precision(config)
    if auto_scale_lr:
        scale_learning_rate(config)
    make_resumable(config)
    use_student_names(config)
    if resume is not None:
        config.resume = True
        config.load_from = newest_checkpoint(config.work_dir) if resume == 'auto' else resume
    join_processes(config)
    runner = Runner.from_cfg(config)
    check_start(config, runner.model)
    runner.train()
    return runner


def evaluate(config: Config, checkpoint: str) -> Dict[str, Any]:
    """Evaluate a detector, of a distillation the student alone, as `tools/test.py` does.

    Args:
        config: of the distillation, or a plain one.
        checkpoint: likewise.

    Returns:
        The metrics by name.

    Raises:
        CheckpointError, ValueError: see `student_state_dict` and `load_state_strictly`.
    """
    config = student_config(config)
    weights = student_state_dict(load_checkpoint_file(checkpoint))
    config.load_from, config.resume = None, False  # MMEngine would not load strictly
    join_processes(config)
    runner = Runner.from_cfg(config)
    load_state_strictly(unwrap_model(runner.model), weights, checkpoint, what='student')
    metrics: Dict[str, Any] = runner.test()
    return metrics


def batch_note(config: Config) -> str:
    """Return a sentence if the schedule is meant for another batch size, else ''."""
    scale = config.get('auto_scale_lr') or {}
    meant, batch = scale.get('base_batch_size'), config.train_dataloader.get('batch_size')
    if scale.get('enable') or None in (meant, batch) or meant == batch:
        return ''
    return (
        f'The learning rate of this schedule is meant for batches of {meant}, one GPU here makes '
        f'{batch}: --cfg-options auto_scale_lr.enable=True scales it.'
    )

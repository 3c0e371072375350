"""Whole tiny trainings by tools/train.py, each in a process of its own.

The processes are forks of a server that has imported this module, which saves seconds per training.

A distillation of a tiny Deformable DETR, with dropout and flips, on a few drawn images: about
0.1 s per iteration.
"""

import copy
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from mmdet_detrdistill.checkpoints.read import load_checkpoint_file
from mmdet_detrdistill.registry import register
from tests.tiny_detectors import build, tiny_config

with suppress(ImportError):  # not in PyTorch 1.13
    import torch._dynamo  # every optimizer imports it: once is enough

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ('circle', 'hexagon', 'ring')
LOSSES = dict(
    loss_logits_kd=dict(type='LogitsKDLoss'),
    loss_feature_kd=dict(type='FeatureKDLoss'),
    loss_assign_kd=dict(type='AssignKDLoss'),
)
ITERATIONS = 4  # per epoch
PROCESSES = multiprocessing.get_context('forkserver')
PROCESSES.set_forkserver_preload([__name__])


def load_tool(name: str) -> Any:
    """tools/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / 'tools' / f'{name}.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def draw_images(folder: Path, train_size: int = 2 * ITERATIONS, val_size: int = 2) -> Path:
    """A data set of images of 64 x 64 pixels, three classes."""
    arguments = ['--train', str(train_size), '--val', str(val_size), '--size', '64']
    load_tool('make_shapes').main([str(folder), *arguments])
    return folder


def small_detector(variant: str = 'deformable', num_layers: int = 2) -> Dict[str, Any]:
    """Model config of a detector for 64 x 64 images."""
    width = None if variant == 'dino' else 32
    model = tiny_config(variant, num_layers=num_layers, width=width, strides=(8, 16, 32))
    model.test_cfg = dict(max_per_img=10)
    return model


def save_teacher(path: Path, variant: str = 'deformable') -> Path:
    """A checkpoint of random weights for `small_detector(variant, num_layers=3)`."""
    return save_random(path, small_detector(variant, 3))


def save_random(path: Path, model: Dict[str, Any], classes: Sequence[str] = CLASSES) -> Path:
    """A checkpoint of random weights for a model config, with the names of its classes."""
    state = build(copy.deepcopy(model), seed=7).state_dict()
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=classes))), path)
    return path


def distillation(data: Path, teacher: Path, variant: str = 'deformable', epochs: int = 3) -> Config:
    """A distillation config as a user has it: what makes it resumable comes from train.py."""
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
    ]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')

    def loader(split: str, steps: Sequence[Dict[str, Any]], **options: Any) -> Dict[str, Any]:
        return dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=split == 'train'),
            dataset=dict(
                type='CocoDataset',
                data_root=str(data),
                ann_file=f'annotations/instances_{split}.json',
                data_prefix=dict(img=f'{split}/'),
                metainfo=dict(classes=CLASSES),
                pipeline=[*pipeline, *steps],
                **options,
            ),
        )

    flip = dict(type='RandomFlip', prob=0.5)
    val = loader('val', [dict(type='PackDetInputs', meta_keys=keys)], test_mode=True)
    metric = dict(type='CocoMetric', ann_file=f'{data}/annotations/instances_val.json')
    return Config(
        dict(
            default_scope='mmdet',
            custom_imports=dict(imports=['mmdet_detrdistill'], allow_failed_imports=False),
            custom_hooks=[dict(type='TeacherCheckHook')],
            randomness=dict(seed=5),
            train_dataloader=loader('train', [flip, dict(type='PackDetInputs')]),
            val_dataloader=val,
            test_dataloader=val,
            val_evaluator=metric,
            test_evaluator=metric,
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs),
            val_cfg=dict(type='ValLoop'),
            test_cfg=dict(type='TestLoop'),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1),
            ),
            model=dict(
                type='DETRDistill',
                architecture=small_detector(variant),
                teacher=small_detector(variant, num_layers=3),
                teacher_ckpt=str(teacher),
                distiller=dict(type='DETRDistiller', distill_losses=dict(LOSSES)),
            ),
        )
    )


@register('HOOKS')
class KillHook(Hook):
    """SIGKILL to this very process after an iteration."""

    priority = 'LOWEST'

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


class Ended:
    """How a process ended: exit `code` (negative: the signal) and what it had printed."""

    def __init__(self, code: int, output: str) -> None:
        self.code, self.output = code, output

    @property
    def last_line(self) -> str:
        lines = [line for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines else ''


def run(work: Callable[[], Any], log: Path) -> Ended:
    """Call `work`, which can be pickled, in a fresh process; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    process = PROCESSES.Process(target=_redirected, args=(work, log))
    with patch.dict(os.environ, OMP_NUM_THREADS='1'):
        with working_directory(ROOT):  # the server finds `tests` there; MMRazor installs one too
            forkserver.ensure_running()
        process.start()
    process.join()
    output = log.read_text(errors='replace') if log.exists() else ''
    return Ended(process.exitcode, output)


def _redirected(work: Callable[[], Any], log: Path) -> None:
    torch.set_num_threads(1)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, 'w', buffering=1) for number in (1, 2))
    work()


def run_training(
    config: Config,
    work_dir: Path,
    *arguments: str,
    kill_at: Optional[int] = None,
    before: Callable[[], Any] = dict,
) -> Ended:
    """tools/train.py in a process of its own.

    Args:
        config: written to a file first.
        arguments: further ones of train.py, such as `--resume`.
        kill_at: number of iterations after which it is killed.
        before: called first in the process, for instance to break something.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    written = Config(config.to_dict())
    if kill_at is not None:
        written.custom_hooks = [*written.custom_hooks, dict(type='KillHook', iteration=kill_at)]
    path = work_dir.with_name(f'{work_dir.name}.py')
    with unformatted_configs():
        written.dump(path)
    command = [str(path), '--work-dir', str(work_dir), *arguments]
    return run_tool('train', command, work_dir.with_name(f'{work_dir.name}.log'), before)


@contextmanager
def working_directory(path: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


def run_tool(
    name: str, command: Sequence[str], log: Path, before: Callable[[], Any] = dict
) -> Ended:
    """tools/NAME.py with its command line, in a process of its own."""
    return run(partial(_call_tool, name, list(command), before), log)


def _call_tool(name: str, command: Sequence[str], before: Callable[[], Any]) -> None:
    before()
    with unformatted_configs():
        load_tool(name).main(command)


@contextmanager
def unformatted_configs() -> Iterator[None]:
    """MMEngine formats its config seven times per training, for seconds each: here as it comes.

    And it asks compilers for their versions.
    """
    config, runner = 'mmengine.config.config', 'mmengine.runner.runner'
    fast = patch(f'{config}.FormatCode', lambda text, **_: (text, True))
    with fast, patch(f'{runner}.collect_env', dict):
        yield


def differences(first: Path, second: Path) -> Dict[str, float]:
    """Largest absolute difference of each weight that is not bitwise the same."""
    states = [load_checkpoint_file(str(path))['state_dict'] for path in (first, second)]
    assert list(states[0]) == list(states[1])
    return {
        name: float((value.double() - states[1][name].double()).abs().max())
        for name, value in states[0].items()
        if not torch.equal(value, states[1][name])
    }


def in_logs(work_dir: Path, name: str) -> List[float]:
    """The values of a scalar that MMEngine logged, in order, where it logged one."""
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line[name] for line in lines if name in line]

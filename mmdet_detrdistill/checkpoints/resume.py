"""What a training starts from: found, read safely and compared with the model beforehand."""

import glob
import os.path as osp
from typing import Any, Optional

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from torch import Tensor, nn

from ..registry import class_of
from .export import student_state_dict
from .read import CheckpointError, load_checkpoint_file, refuse_unfit_state, unwrap_model

NEEDED = ('meta', 'optimizer', 'message_hub')  # what a run goes on from, besides the weights


def make_resumable(config: Config) -> None:
    """Let a run save safely and draw random numbers that a resumed run draws again.

    `CheckpointHook` becomes `SafeCheckpointHook`, other types stay; `IterationSeedHook` is added
    unless the config has it.
    """
    hooks = config.setdefault('default_hooks', {})
    checkpoint = hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    if checkpoint is not None and class_of('HOOKS', checkpoint) is CheckpointHook:
        checkpoint['type'] = 'mmdet.SafeCheckpointHook'
    custom = list(config.get('custom_hooks') or [])
    seeding = class_of('HOOKS', 'IterationSeedHook')
    if not any(class_of('HOOKS', hook) is seeding for hook in custom):
        config.custom_hooks = [*custom, dict(type='mmdet.IterationSeedHook')]


def newest_checkpoint(folder: str) -> Optional[str]:
    """The file that `last_checkpoint` names; without that note the newest that can be resumed.

    None when the folder holds nothing to go on from.
    """
    note = osp.join(folder, 'last_checkpoint')
    if osp.isfile(note):
        with open(note) as file:
            path = file.read().strip()
        if path:
            moved = osp.join(folder, osp.basename(path))
            return moved if not osp.exists(path) and osp.exists(moved) else path
    return _newest_whole(folder)


def _newest_whole(folder: str, but: str = '', model: Optional[nn.Module] = None) -> Optional[str]:
    """The newest file in a folder, `but` one, that can be resumed (with `model`)."""
    paths = (path for path in glob.glob(osp.join(folder, '*.pth')) if path != but)
    for path in sorted(paths, key=osp.getmtime, reverse=True):
        try:
            _check_training_state(path, model)
        except CheckpointError:
            continue
        return path
    return None


def _check_training_state(path: str, model: Optional[nn.Module]) -> None:
    checkpoint = load_checkpoint_file(path)
    missing = [key for key in NEEDED if key not in checkpoint]
    if missing:
        raise CheckpointError(
            f'{path} is no training checkpoint: it has no {", ".join(missing)}. To start from its '
            f'weights, without --resume: --cfg-options load_from={path}'
        )
    if model is not None:
        refuse_unfit_state(model, checkpoint['state_dict'], path)


def check_start(config: Config, model: nn.Module) -> str:
    """Before `Runner.train`: refuse a file to resume or to load that is not what it should be.

    MMEngine executes what a file holds on PyTorch before 2.6, and trains random weights where a
    file does not fit. A distillation starts from weights of its student, plain or those of a
    distillation; classes may differ, as in MMEngine.

    Args:
        config: its `resume` and `load_from`.
        model: as the runner has built it.

    Returns:
        What the training starts from, '' for the model as it is.

    Raises:
        CheckpointError: no such file, truncated, forbidden content, or another model's; for a
            resume it also names the newest file beside it that can be resumed.
    """
    path: Optional[str] = config.get('load_from')
    if path is None or ('://' in path and not path.startswith('http')):
        return path or ''
    model = unwrap_model(model)
    if not config.get('resume'):
        return _check_weights(path, model)
    try:
        _check_training_state(path, model)
    except CheckpointError as error:
        folder = osp.dirname(path) or '.'
        other = _newest_whole(folder, path, model)
        hint = f'--resume {other} is the newest that can' if other else 'nor can another file there'
        raise CheckpointError(
            f'{error}\nSo {path} cannot be resumed, {hint}. Nothing was changed'
        ) from error
    return path


def _check_weights(path: str, model: Any) -> str:
    """See `check_start`; of a plain model some weight has to fit, of a student each but classes."""
    state = load_checkpoint_file(path)['state_dict']
    state = {name[7:] if name.startswith('module.') else name: v for name, v in state.items()}
    student = getattr(model, 'architecture', None)
    if student is None:
        if not state.keys() & model.state_dict().keys():
            refuse_unfit_state(model, state, path)
        return path
    weights = student_state_dict(dict(state_dict=state))
    own = student.state_dict()
    num_classes = model.student_adapter.num_classes
    skipped = [
        name
        for name, value in weights.items()
        if name in own and _other_classes(value, own[name], num_classes)
    ]
    kept = {name: own[name] if name in skipped else value for name, value in weights.items()}
    refuse_unfit_state(student, kept, path, what='student')
    classes = f', but for {len(skipped)} weights of other classes' if skipped else ''
    return f'{path}{classes}'


def _other_classes(value: Tensor, own: Tensor, num_classes: int) -> bool:
    """Whether two weights differ in their rows alone, of which there is one per class."""
    rows = (num_classes, num_classes + 1)  # with and without a background class
    return value.shape != own.shape and value.shape[1:] == own.shape[1:] and len(own) in rows

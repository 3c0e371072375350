"""What a training starts from: found, read safely and compared with the model beforehand."""

import glob
import os.path as osp
from typing import Optional

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from torch import nn

from .read import CheckpointError, load_checkpoint_file, refuse_unfit_state

NEEDED = ('meta', 'optimizer', 'message_hub')  # what a run goes on from, besides the weights


def make_resumable(config: Config) -> None:
    """Let a run save safely and draw random numbers that a resumed run draws again.

    `CheckpointHook` becomes `SafeCheckpointHook`, other types stay; `IterationSeedHook` is added
    unless the config has it.
    """
    hooks = config.setdefault('default_hooks', {})
    checkpoint = hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    if checkpoint is not None and checkpoint.get('type') == 'CheckpointHook':
        checkpoint['type'] = 'mmdet.SafeCheckpointHook'
    custom = list(config.get('custom_hooks') or [])
    if not any(str(hook.get('type')).endswith('IterationSeedHook') for hook in custom):
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


def check_start(config: Config, model: nn.Module) -> None:
    """Before `Runner.train`: refuse a file to resume or to load that is not what it should be.

    MMEngine executes what a file holds on PyTorch before 2.6, and trains random weights where a
    file does not fit.

    Args:
        config: its `resume` and `load_from`.
        model: as the runner has built it.

    Raises:
        CheckpointError: no such file, truncated, forbidden content, or another model's; for a
            resume it also names the newest file beside it that can be resumed.
    """
    path = config.get('load_from')
    if path is None or ('://' in path and not path.startswith('http')):
        return
    model = model.module if is_model_wrapper(model) else model
    if not config.get('resume'):
        state = load_checkpoint_file(path)['state_dict']
        names = {name[7:] if name.startswith('module.') else name for name in state}
        if not names & set(model.state_dict()):
            refuse_unfit_state(model, state, path)
        return
    try:
        _check_training_state(path, model)
    except CheckpointError as error:
        folder = osp.dirname(path) or '.'
        other = _newest_whole(folder, path, model)
        hint = f'--resume {other} is the newest that can' if other else 'nor can another file there'
        raise CheckpointError(
            f'{error}\nSo {path} cannot be resumed, {hint}. Nothing was changed'
        ) from error

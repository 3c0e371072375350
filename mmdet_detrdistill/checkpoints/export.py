"""Take the student out of a distillation: a plain MMDetection config and a plain checkpoint."""

import os
import os.path as osp
from collections import OrderedDict
from copy import deepcopy
from typing import Any, Dict, Optional, Tuple

import numpy as np
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import save_checkpoint
from torch import Tensor, nn

from ..config.load import detector_config
from ..config.unlabelled import without_unlabelled
from ..registry import SCOPE as PACKAGE
from ..registry import class_of, scope_of
from .read import load_checkpoint_file, load_state_strictly

STUDENT, DISTILLER = 'architecture.', 'distiller.'


def export_student(
    config: Config, checkpoint_path: str, folder: str, name: str = 'student'
) -> Tuple[str, str]:
    """Write `folder/student.py` and `folder/NAME.pth`, for MMDetection without this package.

    The config has no `_base_`. The checkpoint holds weights and plain Python values only, so that
    any PyTorch reads it safely.

    Args:
        config: of the distillation, with its overrides.
        checkpoint_path: of the distillation, or a plain one.

    Returns:
        Both paths.

    Raises:
        CheckpointError, ValueError: see `load_checkpoint_file` and `student_state_dict`.
    """
    checkpoint = load_checkpoint_file(checkpoint_path)
    weights = student_state_dict(checkpoint)
    plain = student_config(config)
    meta = checkpoint.get('meta') or {}
    kept = {key: _plain(meta[key]) for key in ('epoch', 'iter', 'dataset_meta') if key in meta}
    os.makedirs(folder, exist_ok=True)
    paths = osp.join(folder, 'student.py'), osp.join(folder, f'{name}.pth')
    plain.dump(paths[0])
    content = dict(meta=dict(kept, cfg=plain.pretty_text), state_dict=weights)
    save_checkpoint(content, paths[1], backend_args=dict(backend='atomic'))
    return paths


def student_config(config: Config) -> Config:
    """Return the student's plain MMDetection config, from the config of its distillation.

    `model` becomes its `architecture`; this package's import and `distiller` go, and so do
    its hooks and MMRazor's. Data, schedule and everything else stay. From a config without
    distillation only those hooks and the import are removed.
    """
    student = deepcopy(config)
    model = student.model
    if 'architecture' in model:
        detector = detector_config(model.architecture, 'architecture')
        if model.get('data_preprocessor') is not None:
            detector.data_preprocessor = model.data_preprocessor
        student.model = detector
        student.pop('distiller', None)
        student.update(load_from=None, resume=False)
    student.pop('unlabelled', None)
    if student.get('train_dataloader'):
        student.train_dataloader.dataset = without_unlabelled(student.train_dataloader.dataset)
    hooks = [hook for hook in student.get('custom_hooks') or [] if not _is_foreign('HOOKS', hook)]
    _set_or_drop(student, 'custom_hooks', hooks)
    for name, hook in list((student.get('default_hooks') or {}).items()):
        if _is_foreign('HOOKS', hook):
            if name == 'checkpoint':
                hook.type = 'CheckpointHook'
            else:
                del student.default_hooks[name]
    if _is_foreign('LOOPS', student.get('val_cfg')):
        student.val_cfg.type = 'ValLoop'
    imports = student.get('custom_imports') or {}
    names = imports.get('imports') or []
    others = [name for name in ([names] if isinstance(names, str) else names) if name != PACKAGE]
    _set_or_drop(student, 'custom_imports', {**imports, 'imports': others} if others else None)
    return student


def build_student(config: Config, checkpoint_path: Optional[str]) -> nn.Module:
    """Build the plain detector that a distillation has trained, with its weights.

    Args:
        config: of the distillation, or a plain one.
        checkpoint_path: likewise; None leaves the weights random.

    Raises:
        CheckpointError, ValueError: see `student_state_dict` and `load_state_strictly`.
    """
    weights = checkpoint_path and student_state_dict(load_checkpoint_file(checkpoint_path))
    with scope_of(config):
        student: nn.Module = MODELS.build(student_config(config).model)
    if checkpoint_path and weights:
        load_state_strictly(student, weights, checkpoint_path, what='student')
    return student


def _is_foreign(kind: str, config: Any) -> bool:
    """Tell whether a config names a class of this package or of MMRazor."""
    found = class_of(kind, config)
    return getattr(found, '__module__', '').split('.')[0] in (PACKAGE, 'mmrazor')


def _plain(value: Any) -> Any:
    """Convert a value to plain Python types."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _set_or_drop(config: Config, key: str, value: Any) -> None:
    config.pop(key, None)
    if value:
        config[key] = value


def student_state_dict(checkpoint: Dict[str, Any]) -> 'OrderedDict[str, Tensor]':
    """Return the student's weights under the names that MMDetection gives them.

    Args:
        checkpoint: a distillation checkpoint (`architecture.*`, `distiller.*`) or a plain one,
            whose weights come back unchanged; see `compat.load_checkpoint_file`.

    Raises:
        ValueError: no `state_dict`, or keys of both kinds.
    """
    state = checkpoint.get('state_dict')
    if not isinstance(state, dict) or not state:
        raise ValueError(
            f'the checkpoint has no weights under `state_dict`; it has {sorted(checkpoint)}'
        )
    student = OrderedDict(
        (key[len(STUDENT) :], value) for key, value in state.items() if key.startswith(STUDENT)
    )
    if not student:
        return OrderedDict(state)
    others = [key for key in state if not key.startswith((STUDENT, DISTILLER))]
    if others:
        raise ValueError(
            f'the checkpoint holds `architecture.*` and {len(others)} other keys, such as '
            f'{", ".join(others[:3])}: neither a distillation nor a plain checkpoint'
        )
    return student

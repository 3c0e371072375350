"""Take the student out of a distillation: a plain MMDetection config and a plain checkpoint."""

from collections import OrderedDict
from copy import deepcopy
from typing import Any, Dict

from mmengine.config import Config
from torch import Tensor

from .teacher import detector_config

PACKAGE = 'mmdet_detrdistill'
HOOKS = ('AssignmentStabilityHook', 'TeacherCheckHook', 'TeacherQueryInjectionHook')
STUDENT, DISTILLER = 'architecture.', 'distiller.'


def student_config(config: Config) -> Config:
    """The student's plain MMDetection config, from the config of its distillation.

    `model` becomes its `architecture`; this package's import, hooks and `distiller` go. Data,
    schedule and everything else stay. A config without distillation comes back as a copy.
    """
    student = deepcopy(config)
    model = student.model
    if 'architecture' not in model:
        return student
    detector = detector_config(model.architecture, 'architecture')
    if model.get('data_preprocessor') is not None:
        detector.data_preprocessor = model.data_preprocessor
    student.model = detector
    student.pop('distiller', None)
    hooks = [hook for hook in student.get('custom_hooks') or [] if not _is_own(hook)]
    _set_or_drop(student, 'custom_hooks', hooks)
    for name, hook in list((student.get('default_hooks') or {}).items()):
        if _is_own(hook):
            del student.default_hooks[name]
    imports = student.get('custom_imports') or {}
    names = imports.get('imports') or []
    others = [name for name in ([names] if isinstance(names, str) else names) if name != PACKAGE]
    _set_or_drop(student, 'custom_imports', {**imports, 'imports': others} if others else None)
    return student


def _is_own(hook: Any) -> bool:
    """Whether a hook config is one of this package's; its type may carry a registry scope."""
    return isinstance(hook, dict) and str(hook.get('type')).split('.')[-1] in HOOKS


def _set_or_drop(config: Config, key: str, value: Any) -> None:
    config.pop(key, None)
    if value:
        config[key] = value


def student_state_dict(checkpoint: Dict[str, Any]) -> 'OrderedDict[str, Tensor]':
    """The student's weights under the names that MMDetection gives them.

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

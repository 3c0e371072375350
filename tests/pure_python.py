"""Configs in MMEngine's pure Python style: types as classes, nothing as text."""

from typing import Any, Dict, Set, Tuple

from mmengine.config import Config

from mmdet_detrdistill.registry import class_of

KINDS = (
    'MODELS', 'DATASETS', 'TRANSFORMS', 'DATA_SAMPLERS', 'HOOKS', 'LOOPS', 'METRICS', 'OPTIMIZERS',
    'OPTIM_WRAPPERS', 'PARAM_SCHEDULERS', 'TASK_UTILS',
)  # fmt: skip
LEFT_OUT = ('default_scope', 'custom_imports')  # what text needs and classes do not


def pure_python(config: Config, base: str = '') -> str:
    """The text of a config with its types as classes.

    Args:
        base: a relative module that it reads first.
    """
    imports: Set[Tuple[str, str]] = set()
    content = {key: value for key, value in config.to_dict().items() if key not in LEFT_OUT}
    lines = [f'{key} = {_code(value, imports)}' for key, value in content.items()]
    head = ['from mmengine.config import read_base', 'with read_base():']
    head = [*head, f'    from .{base} import *'] if base else head[:1]
    head += [f'from {module} import {name}' for module, name in sorted(imports)]
    return '\n'.join([*head, *lines]) + '\n'


def _code(value: Any, imports: Set[Tuple[str, str]]) -> str:
    if isinstance(value, dict):
        return f'dict({", ".join(f"{k}={_entry(k, v, imports)}" for k, v in value.items())})'
    if isinstance(value, (list, tuple)):
        items = ''.join(f'{_code(item, imports)}, ' for item in value)
        return f'[{items}]' if isinstance(value, list) else f'({items})'
    return repr(value)


def _entry(key: str, value: Any, imports: Set[Tuple[str, str]]) -> str:
    if key != 'type':
        return _code(value, imports)
    found = next(filter(None, (class_of(kind, value) for kind in KINDS)))
    imports.add((found.__module__, found.__name__))
    return found.__name__


def no_text_types(config: Dict[str, Any]) -> bool:
    """Whether a config that was read holds classes only."""
    if isinstance(config, (list, tuple)):
        return all(map(no_text_types, config))
    if not isinstance(config, dict):
        return True
    return not isinstance(config.get('type'), str) and all(map(no_text_types, config.values()))

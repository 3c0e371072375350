"""Load the configs of detectors as they stand, from files, packages or dicts."""

import os
import os.path as osp
from copy import deepcopy
from importlib.util import find_spec
from typing import Any, Dict, Union

import mmdet.registry
import mmengine.registry
import mmrazor.registry
from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.registry import Registry
from mmengine.utils import get_installed_path

from ..registry import SCOPE


def load_config(path: str, what: str = 'config') -> Config:
    """Read a config as it stands, from a file or an installed package.

    Args:
        path: a file, or `package::folder/file.py`.
        what: what the config is, for messages.

    Raises:
        FileNotFoundError: no such file or package, or it is based on one that does not exist.
        ValueError: it cannot be read, or has no `model`.
    """
    package, _, inside = path.rpartition('::')
    if package and find_spec(package) is None:
        raise FileNotFoundError(
            f'{what} {path}: no package {package!r} is installed; '
            "MMDetection's own configs are mmdet::folder/file.py"
        )
    if not package and not osp.isfile(path):
        raise FileNotFoundError(
            f'{what} {path} does not exist (working directory: {os.getcwd()}); name it by a path '
            'from there, or one of MMDetection as mmdet::folder/file.py'
        )
    try:
        folder = osp.join(get_installed_path(package), '.mim', 'configs') if package else ''
        config = Config.fromfile(osp.join(folder, inside))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'{what} {path}, or a config that it is based on, does not exist: {error}'
        ) from error
    except Exception as error:  # a config is code: anything can go wrong in it
        raise ValueError(f'{what} {path}: {type(error).__name__}: {error}') from error
    if 'model' not in config:
        raise ValueError(f'{what} {path} has no `model`')
    return config if package or not Config._is_lazy_import(path) else with_type_names(config)


def detector_config(detector: Union[str, Dict[str, Any]], role: str = 'teacher') -> ConfigDict:
    """Read the model config that a teacher or student is named by.

    Args:
        detector: a path, `package::path` or a file; `dict(cfg_path=path, options={...})` with
            dotted overrides of that config's model; or a model config with a `type`.
        role: the config's key, for messages.

    Raises:
        FileNotFoundError, ValueError: see `load_config`; or neither form.
    """
    if isinstance(detector, str):
        detector = dict(cfg_path=detector)
    if not isinstance(detector, dict):
        raise ValueError(f'{role} must be a path or a config, got {detector!r}')
    if 'type' in detector:
        return deepcopy(ConfigDict(detector))  # some heads write into the config they are built of
    path, options = detector.get('cfg_path'), detector.get('options') or {}
    if path is None or set(detector) - {'cfg_path', 'options'}:
        raise ValueError(
            f'{role} must be a path, dict(cfg_path=..., options={{...}}) or a model config with a '
            f'`type`; got keys {sorted(detector)}'
        )
    config = load_config(path, f'{role} config')
    for name, value in options.items():  # one by one: `a.b` and `a=dict(c=...)` both count
        config.merge_from_dict({f'model.{name}': value})
    return config.model


def with_type_names(config: Config) -> Config:
    """Replace the classes of a pure Python config by their names, as any tool can write them.

    Its default scope becomes MMDetection's if it has none.
    """

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(named(item) for item in value)
        if isinstance(value, (LazyObject, LazyAttr)):  # in a list MMEngine leaves them
            value = value.build()
        return type_name(value) if callable(value) else value

    content = {key: named(config[key]) for key in config.to_dict()}
    content['default_scope'] = content.get('default_scope') or 'mmdet'
    return Config(content, filename=config.filename)


def type_name(found: Any) -> str:
    """Return the text that names a class or function in a config, in the default scope `mmdet`.

    A class of the OpenMMLab packages goes by its registered name, another by its dotted path, so
    that its module is imported where the config is read again.
    """
    path = f'{found.__module__}.{found.__qualname__}'
    if path.split('.')[0] not in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmrazor', SCOPE):
        return path
    for package in (mmdet.registry, mmengine.registry, mmrazor.registry):
        for registry in vars(package).values():
            if not isinstance(registry, Registry):
                continue
            names = [name for name, known in registry.module_dict.items() if known is found]
            if names:
                plain = package is not mmrazor.registry and _is_found(found, registry, names[0])
                return names[0] if plain else f'{registry.scope}.{names[0]}'
    return path


def _is_found(found: Any, registry: Registry, name: str) -> bool:
    """Tell whether a plain name means this class in MMDetection's scope."""
    own = next((child for child in registry.children.values() if child.scope == 'mmdet'), registry)
    return own.module_dict.get(name, found) is found

"""Read configs: the one that a tool is called with, and those that sides are named by."""

import os
import os.path as osp
from argparse import Namespace
from copy import deepcopy
from importlib.util import find_spec
from typing import Any, Dict, Optional, Union

from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.utils import get_installed_path

from ..registry import type_name
from .coco_format import resolve_coco_format
from .unlabelled import resolve_unlabelled

#: names in `default_hooks` that MMEngine takes None for
MMENGINE_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)


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


def open_config(
    path: str, options: Optional[Dict[str, Any]] = None, needs_data: bool = True
) -> Config:
    """Read the config of a training: with overrides, data and a work folder filled in.

    Args:
        options: overrides by dotted name.
        needs_data: False leaves a `coco_format` config as it is where its files are missing.

    Raises:
        FileNotFoundError, ValueError: see `load_config`; or an override or the data does not fit.
    """
    config = load_config(path)
    try:
        config.merge_from_dict(options or {})
        resolve_coco_format(config)
        resolve_unlabelled(config)
    except FileNotFoundError as error:
        if needs_data:
            raise FileNotFoundError(f'config {path}: {error}') from error
    except Exception as error:
        raise ValueError(f'config {path}: {type(error).__name__}: {error}') from error
    hooks = config.get('default_hooks') or {}
    for name in [name for name in hooks if hooks[name] is None and name not in MMENGINE_HOOKS]:
        del hooks[name]  # switched off; MMEngine would stop without a word
    if config.get('work_dir') is None:
        config.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(path))[0])
    return config


def read_config(arguments: Namespace, needs_data: bool = True) -> Config:
    """Read the config that a tool is called with, with its launcher and work folder.

    Args:
        arguments: of a parser with `add_config_options` or `add_common_options`.
        needs_data: see `open_config`.

    Raises:
        SystemExit: what `open_config` raises, as one line.
    """
    try:
        config = open_config(arguments.config, arguments.cfg_options, needs_data)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error
    config.launcher = arguments.launcher
    os.environ.setdefault('LOCAL_RANK', str(arguments.local_rank))
    if arguments.work_dir is not None:
        config.work_dir = arguments.work_dir
    return config


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

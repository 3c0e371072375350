"""Read configs: the one that a tool is called with, and those that sides are named by."""

import os
import os.path as osp
from argparse import Namespace
from copy import deepcopy
from typing import Any, Dict, Union

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config

from .coco_format import resolve_coco_format


def read_config(arguments: Namespace, needs_data: bool = True) -> Config:
    """The config with its overrides, launcher and work folder.

    Args:
        arguments: of a parser with `add_common_options`.
        needs_data: False leaves a `coco_format` config as it is where its files are missing.

    Raises:
        SystemExit: the file is missing or cannot be read, or an override does not fit; the message
            names file and reason.
    """
    path = arguments.config
    if not osp.isfile(path):
        raise SystemExit(f'config {path} does not exist (working directory: {os.getcwd()})')
    try:
        config = Config.fromfile(path)
        if arguments.cfg_options:
            config.merge_from_dict(arguments.cfg_options)
        if 'model' not in config:
            raise ValueError('it defines no `model`')
        try:
            resolve_coco_format(config)
        except FileNotFoundError:
            if needs_data:
                raise
    except Exception as error:  # a config is code: anything can go wrong in it
        raise SystemExit(f'config {path}: {type(error).__name__}: {error}') from error
    config.launcher = arguments.launcher
    os.environ.setdefault('LOCAL_RANK', str(arguments.local_rank))
    if arguments.work_dir is not None:
        config.work_dir = arguments.work_dir
    elif config.get('work_dir') is None:
        config.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(path))[0])
    return config


def detector_config(detector: Union[str, Dict[str, Any]], role: str = 'teacher') -> ConfigDict:
    """The model config that a teacher or student is named by.

    Args:
        detector: a path, `package::path` or a file; `dict(cfg_path=path, options={...})` with
            dotted overrides of that config's model; or a model config with a `type`.
        role: the config's key, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: neither form, or a config without `model`.
    """
    if isinstance(detector, str):
        detector = dict(cfg_path=detector)
    if 'type' in detector:
        return deepcopy(ConfigDict(detector))  # some heads write into the config they are built of
    path, options = detector.get('cfg_path'), detector.get('options') or {}
    if path is None or set(detector) - {'cfg_path', 'options'}:
        raise ValueError(
            f'{role} must be a path, dict(cfg_path=..., options={{...}}) or a model config with a '
            f'`type`; got keys {sorted(detector)}'
        )
    try:
        config = get_config(path) if '::' in path else Config.fromfile(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'{role} config {path} does not exist, or is based on one that does not ({error}); '
            'name it as `mmdet::...` or by a path from the working directory'
        ) from error
    if 'model' not in config:
        raise ValueError(f'{role} config {path} has no `model`')
    for name, value in options.items():  # one by one: `a.b` and `a=dict(c=...)` both count
        config.merge_from_dict({f'model.{name}': value})
    return config.model

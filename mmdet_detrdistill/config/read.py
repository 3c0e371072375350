"""Read the config that a tool is called with: overrides, data and work folder filled in."""

import os
import os.path as osp
from argparse import Namespace
from typing import Any, Dict, Optional

from mmengine.config import Config

from .coco_format import resolve_coco_format
from .load import load_config
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

"""What tools/train.py and tools/test.py share: options, reading a config, joining processes."""

import os
import os.path as osp
import subprocess
from argparse import ArgumentParser, Namespace

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device

from .coco_format import resolve_coco_format

SLURM_VARIABLES = ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST', 'SLURM_LOCALID')


def add_config_options(parser: ArgumentParser) -> None:
    """A config and its overrides; what else `read_config` reads gets its default."""
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, such as train_cfg.max_epochs=2 a.b="[1,2]"',
    )


def add_common_options(parser: ArgumentParser) -> None:
    """The options that `mim train` and `mim test` pass to either tool."""
    add_config_options(parser)
    parser.add_argument(
        '--work-dir', help="folder for logs and results (default: the config's, or work_dirs/NAME)"
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    # torch.distributed.launch passes the one or the other spelling, by its version
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by launchers'
    )


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


def join_processes(config: Config) -> None:
    """Let the processes of `torchrun`, `torch.distributed.launch` or `srun` work together on a CPU.

    MMEngine's launchers take a GPU per process; where they would find none, the group is made here,
    with gloo, and MMEngine uses it. Elsewhere nothing is done.

    Raises:
        SystemExit: the Slurm launcher outside of `srun`.
    """
    if config.launcher == 'slurm':
        missing = [name for name in SLURM_VARIABLES if name not in os.environ]
        if missing:
            raise SystemExit(
                f'--launcher slurm: {", ".join(missing)} is not set. Start the tool by srun, or '
                'use --launcher none or pytorch'
            )
    if config.launcher not in ('pytorch', 'slurm') or get_device() != 'cpu':
        return
    if config.launcher == 'slurm':
        _translate_slurm_variables(config)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    # MMEngine's wrapper would name a GPU too; the other arguments are MMEngine's own
    config.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': config.get('find_unused_parameters', False),
        **(config.get('model_wrapper_cfg') or {}),
        'device_ids': None,
    }


def _translate_slurm_variables(config: Config) -> None:
    """Set what `torchrun` would, as MMEngine's Slurm launcher does on a GPU."""
    ours = os.environ
    nodes = ['scontrol', 'show', 'hostname', ours['SLURM_NODELIST']]
    ours.setdefault('MASTER_ADDR', subprocess.check_output(nodes, text=True).split()[0])
    port = config.get('env_cfg', {}).get('dist_cfg', {}).get('port')
    ours['MASTER_PORT'] = str(port or ours.get('MASTER_PORT', 29500))
    ours.update(
        RANK=ours['SLURM_PROCID'],
        WORLD_SIZE=ours['SLURM_NTASKS'],
        LOCAL_RANK=ours['SLURM_LOCALID'],
    )

"""How a run is started: command-line options, mixed precision, several processes."""

import atexit
import os
import subprocess
from argparse import ArgumentParser

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from ..registry import class_of

SLURM_VARIABLES = ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST', 'SLURM_LOCALID')


def add_config_options(parser: ArgumentParser) -> None:
    """Add a config and its overrides; other arguments that `read_config` reads get defaults."""
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
    """Add the options that `mim train` and `mim test` pass to either tool."""
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


def use_mixed_precision(config: Config) -> None:
    """Replace the optimizer wrapper by MMEngine's for mixed precision.

    Raises:
        ValueError: a wrapper of another kind, or no device that it works on.
    """
    wrapper = config.optim_wrapper
    found = class_of('OPTIM_WRAPPERS', wrapper.get('type', 'OptimWrapper'))
    if found not in (OptimWrapper, AmpOptimWrapper):
        raise ValueError(f'--amp needs optim_wrapper.type OptimWrapper, got {wrapper.type}')
    if get_device() == 'cpu':
        raise ValueError('--amp needs a GPU: MMEngine has no mixed precision on a CPU')
    if found is OptimWrapper:
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')


def scale_learning_rate(config: Config) -> None:
    """Let MMEngine scale the learning rate to the batch size.

    Raises:
        ValueError: the config does not say which batch size it is meant for.
    """
    if 'base_batch_size' not in (config.get('auto_scale_lr') or {}):
        raise ValueError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
    config.auto_scale_lr.enable = True


def join_processes(config: Config) -> None:
    """Connect the processes of `torchrun`, `torch.distributed.launch` or `srun` on a CPU.

    MMEngine's launchers take a GPU per process; where they would find none, the group is made here,
    with gloo, and MMEngine uses it until the process ends. Elsewhere nothing is done.

    Raises:
        SystemExit: the Slurm launcher outside of `srun`.
    """
    launcher = config.get('launcher', 'none')
    if launcher == 'slurm':
        missing = [name for name in SLURM_VARIABLES if name not in os.environ]
        if missing:
            raise SystemExit(
                f'--launcher slurm: {", ".join(missing)} is not set. Start the tool by srun, or '
                'use --launcher none or pytorch'
            )
    if launcher not in ('pytorch', 'slurm') or get_device() != 'cpu':
        return
    if launcher == 'slurm':
        _translate_slurm_variables(config)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
        atexit.register(_leave_group)
    # MMEngine's wrapper would name a GPU too; the other arguments are MMEngine's own
    config.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': config.get('find_unused_parameters', False),
        **(config.get('model_wrapper_cfg') or {}),
        'device_ids': None,
    }


def _leave_group() -> None:
    """Stop gloo's threads: one still running while Python shuts down aborts the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


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

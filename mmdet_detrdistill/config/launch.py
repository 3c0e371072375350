"""What tools/train.py and tools/test.py share: options, reading a config, joining processes."""

import os
import subprocess
from argparse import ArgumentParser

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device

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

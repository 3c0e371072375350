"""Two tasks as `srun` starts them, on a CPU: a program named `scontrol` stands for Slurm's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_detrdistill.config.launch import join_processes
from tests.ranks import free_port

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / '_base_' / 'deformable-detr_small_shapes.py'
SCONTROL = """#!/bin/sh
[ "$*" = "show hostname node[1-2]" ] && printf '127.0.0.1\\nnode2\\n'
"""
TASK = """
import atexit, os, sys, torch
from argparse import ArgumentParser
from mmengine.device import get_device
from mmdet_detrdistill.config import launch, read

launch.get_device = lambda: 'cpu'  # also where there is a GPU
atexit.register(lambda: print('left', not torch.distributed.is_initialized()))
parser = ArgumentParser()
launch.add_common_options(parser)
config = read.read_config(parser.parse_args(sys.argv[1:]), needs_data=False)
launch.join_processes(config)
seen = torch.tensor([10.0 ** torch.distributed.get_rank()])
torch.distributed.all_reduce(seen)
names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR')
print(*(os.environ[name] for name in names), int(seen), torch.distributed.get_backend())
print(config.launcher, config.model_wrapper_cfg.device_ids)
"""


def test_slurm_tasks_join_by_gloo(tmp_path):
    """Task 0 has the port from its environment, as mim gives it, task 1 from its config."""
    (tmp_path / 'scontrol').write_text(SCONTROL)
    (tmp_path / 'scontrol').chmod(0o755)
    port = str(free_port())
    environment = {name: value for name, value in os.environ.items() if 'MASTER' not in name}
    environment.update(
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        PYTHONPATH=str(ROOT),
        OMP_NUM_THREADS='1',
        SLURM_NTASKS='2',
        SLURM_NODELIST='node[1-2]',
        SLURM_LOCALID='0',
    )
    command = [sys.executable, '-W', 'ignore', '-c', TASK, str(CONFIG), '--launcher', 'slurm']
    own = [([], port), (['--cfg-options', f'env_cfg.dist_cfg.port={port}'], '1')]
    tasks = [
        subprocess.Popen(
            [*command, *options],
            env={**environment, 'SLURM_PROCID': str(rank), 'MASTER_PORT': given},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, (options, given) in enumerate(own)
    ]
    for rank, task in enumerate(tasks):
        output, errors = task.communicate(timeout=300)
        assert task.returncode == 0, errors
        expected = {f'{rank} 0 2 127.0.0.1 11 gloo', 'slurm None', 'left True'}
        assert expected <= set(output.splitlines()), output


def test_slurm_launcher_outside_of_srun(monkeypatch):
    for name in ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST', 'SLURM_LOCALID'):
        monkeypatch.setenv(name, '0')
    monkeypatch.delenv('SLURM_PROCID')
    with pytest.raises(SystemExit, match=r'SLURM_PROCID is not set\. Start the tool by srun'):
        join_processes(Config(dict(launcher='slurm')))

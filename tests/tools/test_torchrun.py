"""`torchrun` with two processes on the CPU: what `mim train --launcher pytorch` starts as well."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.stepping import load, save_random_teacher
from tests.tools.test_train_and_test import make_shapes

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / 'configs' / 'quickstart'
CONFIG = QUICKSTART / 'detrdistill_deformable-detr_student-from-teacher_1xb8-6e_shapes.py'
HOOK = """
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class WeightsOfEachRank(Hook):
    def after_train(self, runner):
        torch.save(runner.model.module.state_dict(), f'{runner.work_dir}/rank{get_rank()}.pth')
"""


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Work folder and output of a training of one epoch, two iterations on each of two ranks."""
    folder = tmp_path_factory.mktemp('torchrun')
    make_shapes.main([str(folder / 'shapes'), '--train', '8', '--val', '4', '--size', '64'])
    (folder / 'rank_hook.py').write_text(HOOK)
    own = folder / 'own.py'
    own.write_text(
        f"_base_ = '{CONFIG}'\n"
        "custom_imports = dict(imports=['mmdet_detrdistill', 'rank_hook'])\n"
        "default_hooks = dict(weights=dict(type='WeightsOfEachRank'))\n"
    )
    teacher = save_random_teacher(load(CONFIG).model.teacher, folder)
    command = ['-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone']
    command += [str(ROOT / 'tools' / 'train.py'), str(own), '--launcher', 'pytorch']
    command += ['--work-dir', str(folder / 'work'), '--cfg-options', f'data_root={folder}/shapes']
    command += [
        f'model.teacher_ckpt={teacher}',
        'default_hooks.logger.interval=1',
        'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=2',
    ]
    environment = {**os.environ, 'PYTHONPATH': f'{ROOT}:{folder}', 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=900
    )
    return folder / 'work', result


def test_both_ranks_finish_with_the_same_weights(finished):
    folder, result = finished
    assert result.returncode == 0, result.stderr[-9000:]
    first, second = (torch.load(folder / f'rank{rank}.pth') for rank in (0, 1))
    parameters = [name for name in first if 'running' not in name and 'batches' not in name]
    assert len(parameters) > 50
    for name in parameters:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)


def test_one_log_with_all_images(finished):
    """Eight images on two ranks, two a batch: two steps. One line of metrics, of all four."""
    folder, _ = finished
    lines = next(folder.glob('*/vis_data/scalars.json')).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record['iter'] for record in records if 'loss' in record] == [1, 2]
    assert sum('coco/bbox_mAP' in record for record in records) == 1
    assert all('loss_aligned_kd.cls' in record for record in records if 'loss' in record)
    assert len(list(folder.glob('*/*.log'))) == 1

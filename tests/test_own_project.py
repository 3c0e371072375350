"""A project outside of the repository inherits a config of ours, as docs/running.md says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import mmdet_detrdistill
from tests.stepping import load, save_random_teacher
from tests.tools.test_train_and_test import make_shapes

ROOT = Path(__file__).resolve().parents[1]
NAME = 'quickstart/detrdistill_deformable-detr_student-from-teacher_1xb8-6e_shapes.py'
BLOCKS = dict(
    re.findall(
        r'```python\n# (\w+\.py)\n(.*?)```', (ROOT / 'docs' / 'running.md').read_text(), re.S
    )
)


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """The two files of the page, images and a teacher's checkpoint, somewhere else."""
    folder = tmp_path_factory.mktemp('project')
    for name, text in BLOCKS.items():
        (folder / name).write_text(text)
    make_shapes.main(
        [str(folder / 'data' / 'shapes'), '--train', '4', '--val', '2', '--size', '64']
    )
    path = save_random_teacher(load(ROOT / 'configs' / NAME).model.teacher, folder)
    os.rename(path, folder / 'teacher.pth')
    return folder


def test_project_trains_with_its_own_data_set_and_hook(project):
    assert set(BLOCKS) == {'my_project.py', 'my_distill.py'}
    assert len(BLOCKS['my_distill.py'].splitlines()) <= 10
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), 'my_distill.py', '--cfg-options']
    command += ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=2']
    environment = {**os.environ, 'PYTHONPATH': f'{ROOT}:{project}', 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r'seen (\d)', done.stdout + done.stderr) == ['1', '2']
    assert 'coco/bbox_mAP:' in done.stdout + done.stderr
    (used,) = (project / 'work_dirs' / 'my_distill').glob('*/vis_data/config.py')
    assert used.read_text().count("type='MyDataset'") >= 2  # training and validation


def unscoped(value):
    if isinstance(value, dict):
        return {key: unscoped(item) for key, item in value.items() if key != '_scope_'}
    return [unscoped(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_prefix_and_path_inherit_the_same(tmp_path):
    configs = []
    for number, base in enumerate((f'mmdet_detrdistill::{NAME}', ROOT / 'configs' / NAME)):
        path = tmp_path / f'own{number}.py'
        path.write_text(f"_base_ = '{base}'")
        config = unscoped(Config.fromfile(path).to_dict())
        config['model'].pop('teacher')  # the path of a file beside the base
        configs.append(config)
    assert configs[0] == configs[1]


def test_scope_means_what_mmdetection_means():
    with DefaultScope.overwrite_default_scope('mmdet_detrdistill'):
        found = MODELS.build(dict(type='DETRDistiller', distill_losses={}))
        assert isinstance(found, mmdet_detrdistill.DETRDistiller)
        neck = MODELS.build(dict(type='ChannelMapper', in_channels=[8], out_channels=8))
    assert type(neck).__module__.startswith('mmdet.')

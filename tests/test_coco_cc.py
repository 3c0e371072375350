"""Real COCO images: 80 classes with gaps in their ids, crowds, images without objects."""

import pickle
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from mmdet_detrdistill.config.load import detector_config
from mmdet_detrdistill.config.read import read_config
from tests.stepping import build
from tests.trainings import in_logs, run_tool

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / 'shared' / 'data' / 'coco_cc'
(CONFIG,) = (ROOT / 'configs' / 'coco_format').glob('detrdistill_*.py')
LOSSES = ('loss_aligned_kd.cls', 'loss_logits_kd.cls', 'loss_feature_kd', 'loss_assign_kd.cls')


@pytest.mark.skipif(not DATA.is_dir(), reason='the data set is not here')
def test_trains_an_epoch_and_evaluates(tmp_path):
    """One epoch of the shipped distillation on images shrunk to 128, then tools/test.py."""
    options = [
        f'data_root={DATA}',
        f'model.teacher_ckpt={tmp_path / "teacher.pth"}',
        *(
            f'model.distiller.distill_losses.loss_{name.lower()}_kd.type={name}KDLoss'
            for name in ('Logits', 'Feature', 'Assign')
        ),
        'train_cfg.max_epochs=1',
        'default_hooks.logger.interval=1',
        'train_dataloader.dataset.pipeline.2.scale=(128,128)',
        'val_dataloader.dataset.pipeline.1.scale=(128,128)',
        'test_dataloader.dataset.pipeline.1.scale=(128,128)',
    ]
    given = Namespace(config=str(CONFIG), launcher='none', local_rank=0, work_dir=None)
    config = read_config(Namespace(**vars(given), cfg_options=dict(data_root=str(DATA))))
    teacher = build(detector_config(config.model.teacher))
    assert teacher.bbox_head.num_classes == 80
    meta = dict(dataset_meta=dict(classes=config.classes))
    torch.save(dict(state_dict=teacher.state_dict(), meta=meta), tmp_path / 'teacher.pth')

    run = tmp_path / 'run'
    command = [str(CONFIG), '--work-dir', str(run), '--cfg-options', *options]
    trained = run_tool('train', command, tmp_path / 'train.log')
    assert trained.code == 0, trained.output
    for name in ('loss', *LOSSES):
        values = in_logs(run, name)
        assert len(values) == 8, 'batches of 4 of 31 images'
        assert all(0 < value < 1e4 for value in values), name
    assert in_logs(run, 'coco/bbox_mAP') != []

    folder = tmp_path / 'test'
    command = [str(CONFIG), str(run / 'epoch_1.pth'), '--work-dir', str(folder)]
    command += ['--out', str(tmp_path / 'found.pkl'), '--cfg-options', *options]
    tested = run_tool('test', command, tmp_path / 'test.log')
    assert tested.code == 0, tested.output
    found = re.findall(r'coco/bbox_mAP: ([\d.]+)', tested.output)
    assert found and float(found[-1]) == in_logs(run, 'coco/bbox_mAP')[-1]
    with open(tmp_path / 'found.pkl', 'rb') as file:
        assert len(pickle.load(file)) == 42

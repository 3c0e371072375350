"""Whole trainings with unlabelled images: mixed, alone, in a fixed ratio, killed and resumed."""

import signal
from copy import deepcopy

import pytest

from tests.trainings import differences, in_logs, run_training


@pytest.fixture(scope='module')
def config(trained):
    """The validation images, two of them, without their labels beside the labelled ones."""
    config = deepcopy(trained.config)
    config.custom_hooks = [dict(type='TeacherCheckHook')]
    config.train_cfg.max_epochs = 2
    labelled = config.train_dataloader.dataset
    unlabelled = dict(
        type='UnlabelledImages',
        data_root=labelled.data_root,
        data_prefix=dict(img='val/'),
        metainfo=labelled.metainfo,
        pipeline=labelled.pipeline,
    )
    config.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[labelled, unlabelled])
    config.model.unlabelled = dict(score_threshold=0.01)
    return config


def test_mixed_batches_resume_bitwise(trained, config):
    whole, killed = trained.folder / 'mixed', trained.folder / 'mixed_killed'
    ended = run_training(config, whole)
    assert ended.code == 0, ended.output
    counts = in_logs(whole, 'unlabelled.boxes')
    assert counts and max(counts) == 10, "the teacher's limit"
    assert run_training(config, killed, kill_at=7).code == -signal.SIGKILL
    resumed = run_training(config, killed, '--resume')
    assert resumed.code == 0, resumed.output
    assert differences(whole / 'epoch_2.pth', killed / 'epoch_2.pth') == {}


def test_only_unlabelled(trained, config):
    config = deepcopy(config)
    config.train_dataloader.dataset = config.train_dataloader.dataset.datasets[1]
    ended = run_training(config, trained.folder / 'only_unlabelled')
    assert ended.code == 0, ended.output
    assert in_logs(trained.folder / 'only_unlabelled', 'unlabelled.boxes') == [10, 10]


def test_fixed_ratio(trained, config):
    """MMDetection's sampler: one unlabelled image in every batch."""
    config = deepcopy(config)
    config.train_dataloader.update(
        batch_size=3,
        sampler=dict(type='MultiSourceSampler', batch_size=3, source_ratio=[2, 1]),
    )
    config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=5, val_interval=5)
    config.default_hooks.checkpoint.by_epoch = False
    config.default_hooks.checkpoint.interval = 5
    ended = run_training(config, trained.folder / 'ratio')
    assert ended.code == 0, ended.output
    assert in_logs(trained.folder / 'ratio', 'unlabelled.boxes') == [10] * 5

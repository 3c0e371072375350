"""Trainings and checks by the tools of what once went wrong without a word."""

import copy

from mmdet.models.detectors import DeformableDETR
from mmdet.registry import MODELS

from tests import trainings
from tests.detectors.test_levels import PATCHES

TEACHER_CLASSES = ('ring', 'cross', 'circle')  # it knows no hexagon


@MODELS.register_module()
class AuxiliaryDETR(DeformableDETR):
    """Adds a loss of its own."""

    def loss(self, batch_inputs, batch_data_samples):
        losses = super().loss(batch_inputs, batch_data_samples)
        return {**losses, 'loss_auxiliary': self.level_embed.square().mean()}


def config_of(folder):
    trainings.draw_images(folder / 'data')
    trainings.save_teacher(folder / 'teacher.pth')
    config = trainings.distillation(folder / 'data', folder / 'teacher.pth', epochs=1)
    config.custom_imports.imports.append(__name__)
    return config


def train_and_check(config, folder):
    ended = trainings.run_training(copy.deepcopy(config), folder / 'work')
    checked = trainings.run_tool('check', [str(folder / 'work.py')], folder / 'check.log')
    return ended, checked


def use_patches(config, sides):
    """A student of patches, and square images of random sizes."""
    config.model.architecture.backbone = dict(PATCHES)
    config.model.architecture.neck.in_channels = [8, 16, 32]
    resize = config.train_dataloader.dataset.pipeline[2]
    resize.update(scales=[(side, side) for side in sides], type='RandomChoiceResize')
    resize.update(keep_ratio=False)
    resize.pop('scale')
    config.train_dataloader.batch_size = 1


def test_levels_of_a_patch_backbone_at_odd_sizes(tmp_path):
    config = config_of(tmp_path)
    use_patches(config, [64, 70, 93])
    ended, checked = train_and_check(config, tmp_path)
    assert ended.code == 0, ended.output
    strides = '[8, 16, 32] / [8, 16, 32], distilled: [8, 16, 32]'
    assert strides in ended.output and strides in checked.output
    values = trainings.in_logs(tmp_path / 'work', 'loss_feature_kd')
    assert len(values) == 8 and all(value > 0 for value in values)
    assert checked.output.rstrip().endswith('FITS')


def test_a_loss_that_would_be_dropped(tmp_path):
    config = config_of(tmp_path)
    config.model.architecture.type = 'AuxiliaryDETR'
    for output in (ended.output for ended in train_and_check(config, tmp_path)):
        assert 'student AuxiliaryDETR: AuxiliaryDETR.loss is an override' in output
        assert 'FITS' not in output and 'Epoch(train)' not in output


def test_a_class_that_the_teacher_does_not_know(tmp_path):
    config = config_of(tmp_path)
    trainings.save_random(tmp_path / 'teacher.pth', config.model.teacher, TEACHER_CLASSES)
    config.model.class_map = 'auto'
    ended, checked = train_and_check(config, tmp_path)
    assert ended.code == 0, ended.output
    for output in (ended.output, checked.output):
        assert 'circle <- circle, hexagon <- nothing, ring <- ring' in output
    assert all(value > 0 for value in trainings.in_logs(tmp_path / 'work', 'loss_assign_kd.cls'))
    assert checked.output.rstrip().endswith('FITS')

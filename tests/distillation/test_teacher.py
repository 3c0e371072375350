"""The three ways to name a teacher, and checkpoints that do not fit."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.checkpoints.read import CheckpointError
from mmdet_detrdistill.config.load import detector_config
from tests.tiny_detectors import STOCK, tiny, tiny_config


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    state = tiny('deformable', seed=4).state_dict()
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=('a', 'b', 'c')))), path)
    return path


def distil_from(teacher, checkpoint):
    return DETRDistill(tiny('deformable'), teacher, dict(type='DETRDistiller'), str(checkpoint))


def test_path_of_a_package_with_options():
    config = detector_config(
        dict(cfg_path=f'mmdet::{STOCK["deformable"]}', options={'backbone.depth': 101})
    )
    assert config.type == 'DeformableDETR'
    assert config.backbone.depth == 101
    assert config.encoder.num_layers == 6
    mixed = {'backbone.depth': 101, 'backbone': dict(frozen_stages=0)}
    config = detector_config(dict(cfg_path=f'mmdet::{STOCK["deformable"]}', options=mixed))
    assert (config.backbone.depth, config.backbone.frozen_stages) == (101, 0)


def test_file_and_dict_load_the_same_weights(tmp_path, checkpoint):
    file = tmp_path / 'teacher.py'
    Config(dict(model=tiny_config('deformable').to_dict())).dump(file)
    models = [
        distil_from(teacher, checkpoint) for teacher in (str(file), tiny_config('deformable'))
    ]
    expected = torch.load(checkpoint)['state_dict']
    for model in models:
        assert model.teacher_meta['dataset_meta']['classes'] == ('a', 'b', 'c')
        for key, value in model.teacher.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=0, msg=key)


def test_wrong_ways_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere\.py'):
        detector_config('nowhere.py')
    with pytest.raises(ValueError, match='cfg_path'):
        detector_config(dict(path='x.py'))
    file = tmp_path / 'empty.py'
    file.write_text('a = 1')
    with pytest.raises(ValueError, match='no `model`'):
        detector_config(str(file))


def test_checkpoint_of_another_architecture_names_file_and_keys(tmp_path, checkpoint):
    with pytest.raises(CheckpointError, match=r'teacher\.pth') as caught:
        distil_from(tiny_config('deformable_refine', num_layers=3), checkpoint)
    assert 'bbox_head.cls_branches.2' in str(caught.value)
    state = torch.load(checkpoint)
    del state['state_dict']['level_embed']
    torch.save(state, tmp_path / 'partial.pth')
    with pytest.raises(CheckpointError, match='level_embed'):
        distil_from(tiny_config('deformable'), tmp_path / 'partial.pth')
    with pytest.raises((CheckpointError, FileNotFoundError), match=r'missing\.pth'):
        distil_from(tiny_config('deformable'), tmp_path / 'missing.pth')


@pytest.mark.parametrize('scope', ['mmdet', 'mmrazor'])
def test_resolves_from_both_default_scopes(scope):
    from mmengine.registry import MODELS

    config = dict(
        type='DETRDistill',
        architecture=tiny('detr'),
        teacher=tiny('detr'),
        distiller=dict(
            type='DETRDistiller', distill_losses=dict(loss_logits_kd=dict(type='LogitsKDLoss'))
        ),
    )
    with DefaultScope.overwrite_default_scope(scope):
        assert isinstance(MODELS.build(config), DETRDistill)

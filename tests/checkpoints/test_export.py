"""The student that comes out of a distillation is MMDetection's own, bit for bit."""

import copy
from collections import OrderedDict

import pytest
import torch
from mmengine.config import Config

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.checkpoints.export import student_config, student_state_dict
from mmdet_detrdistill.checkpoints.read import load_checkpoint_file, load_state_strictly
from tests.tiny_detectors import batch, tiny, tiny_config

FEATURE_KD = dict(
    type='DETRDistiller', distill_losses=dict(loss_feature_kd=dict(type='FeatureKDLoss'))
)


def distillation_config(**model) -> Config:
    """As a distillation config is after reading it."""
    return Config(
        dict(
            default_scope='mmdet',
            custom_imports=dict(imports=['json', 'mmdet_detrdistill'], allow_failed_imports=False),
            custom_hooks=[
                dict(type='TeacherCheckHook'),
                dict(type='EMAHook'),
                dict(type='mmdet.TeacherQueryInjectionHook'),
            ],
            distiller=FEATURE_KD,
            train_cfg=dict(max_epochs=3),
            model=dict(
                type='DETRDistill',
                architecture=tiny_config('deformable'),
                teacher='mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
                teacher_ckpt='nowhere.pth',
                distiller=FEATURE_KD,
                **model,
            ),
        )
    )


def test_exported_student_predicts_bit_for_bit(tmp_path):
    distilled = DETRDistill(
        architecture=tiny('deformable', seed=1), teacher=tiny('deformable'), distiller=FEATURE_KD
    )
    path = tmp_path / 'epoch_1.pth'
    torch.save({'state_dict': distilled.state_dict(), 'meta': {'epoch': 1}}, path)
    plain = tiny('deformable', seed=2)
    weights = student_state_dict(load_checkpoint_file(str(path)))
    load_state_strictly(plain, weights, str(path), 'student')
    images, samples = batch()
    for model in (plain, distilled.architecture):
        model.bbox_head.test_cfg['max_per_img'] = 10
    predictions = [
        model.eval().predict(images, copy.deepcopy(samples))
        for model in (plain, distilled.architecture)
    ]
    for ours, theirs in zip(*predictions):
        for name in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(
                ours.pred_instances[name], theirs.pred_instances[name], rtol=0, atol=0
            )
    assert set(weights) == set(plain.state_dict())


def test_plain_checkpoint_passes_unchanged():
    state = OrderedDict(tiny('deformable').state_dict())
    assert student_state_dict({'state_dict': state, 'meta': {}}) == state


def test_distiller_keys_are_left_out():
    state = {'architecture.a.weight': torch.ones(1), 'distiller.b': torch.ones(1)}
    assert list(student_state_dict({'state_dict': state})) == ['a.weight']


@pytest.mark.parametrize(
    ('checkpoint', 'message'),
    [
        ({'meta': {}}, r"no weights under `state_dict`; it has \['meta'\]"),
        ({'state_dict': {}}, 'no weights'),
        (
            {'state_dict': {'architecture.a': torch.ones(1), 'teacher.a': torch.ones(1)}},
            'other keys, such as teacher.a',
        ),
    ],
)
def test_anything_else_is_refused(checkpoint, message):
    with pytest.raises(ValueError, match=message):
        student_state_dict(checkpoint)


def test_config_of_the_student_is_plain():
    config = distillation_config()
    config.val_cfg = dict(type='mmrazor.SingleTeacherDistillValLoop')
    before = copy.deepcopy(config)
    student = student_config(config)
    assert student.val_cfg.type == 'ValLoop'
    assert student.model == tiny_config('deformable')
    assert student.custom_hooks == [dict(type='EMAHook')]
    assert student.custom_imports.imports == ['json']
    assert 'distiller' not in student
    assert student.train_cfg.max_epochs == 3
    assert config._cfg_dict == before._cfg_dict, 'the given config is left as it is'


def test_config_without_anything_else_drops_the_keys():
    config = distillation_config()
    config.custom_imports.imports = 'mmdet_detrdistill'
    config.custom_hooks = [dict(type='TeacherCheckHook')]
    config.default_hooks = dict(
        timer=dict(type='IterTimerHook'), stability=dict(type='AssignmentStabilityHook')
    )
    student = student_config(config)
    assert not {'custom_imports', 'custom_hooks', 'distiller'} & set(student)
    assert student.default_hooks == dict(timer=dict(type='IterTimerHook'))


def test_preprocessor_of_the_distillation_is_kept():
    preprocessor = dict(type='DetDataPreprocessor', mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0])
    student = student_config(distillation_config(data_preprocessor=preprocessor))
    assert student.model.data_preprocessor == preprocessor


def test_plain_config_comes_back_as_a_copy():
    config = Config(dict(model=tiny_config('deformable'), distiller='of somebody else'))
    student = student_config(config)
    assert student._cfg_dict == config._cfg_dict
    student.model.type = 'Other'
    assert config.model.type == 'DeformableDETR'


def test_exported_config_survives_a_dump(tmp_path):
    student = student_config(distillation_config())
    student.dump(tmp_path / 'student.py')
    assert Config.fromfile(tmp_path / 'student.py').model == student.model

"""MMRazor beside ours: its losses, stop hook, validation loop, converter; its own configs."""

import json
import runpy
import sys
from pathlib import Path

import mmrazor
import pytest
import torch
import torch.nn.functional as F
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.hub import get_config
from torch.testing import assert_close

from mmdet_detrdistill.checkpoints.export import student_state_dict
from mmdet_detrdistill.checkpoints.read import load_checkpoint_file
from tests.stepping import build, load, save_random_teacher, synthetic_batch
from tests.tools.test_train_and_test import make_shapes, train

ROOT = Path(__file__).resolve().parents[1]
(EXAMPLE,) = (ROOT / 'configs' / 'mmrazor').glob('*.py')
MIM = Path(mmrazor.__file__).parent / '.mim'
SIZE = 128


@pytest.fixture(scope='module')
def image_set(tmp_path_factory):
    """Four images to train on, two to validate; their classes are the first of COCO's 80."""
    folder = tmp_path_factory.mktemp('shapes')
    make_shapes.main([str(folder), '--train', '4', '--val', '2', '--size', str(SIZE)])
    for path in list(folder.rglob('*.json')):
        content = json.loads(path.read_text())
        names = CocoDataset.METAINFO['classes']
        ids = [category['id'] for category in content['categories']]
        ids += range(max(ids) + 1, max(ids) + 1 + len(names) - len(ids))
        content['categories'] = [dict(id=i, name=name) for i, name in zip(ids, names)]
        path.with_name(f'coco_{path.name}').write_text(json.dumps(content))
    return folder


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    """The shipped example with a checkpoint of random weights for its teacher."""
    config = load(EXAMPLE)
    folder = tmp_path_factory.mktemp('teacher')
    config.model.teacher_ckpt = save_random_teacher(config.model.teacher, folder)
    return config


def logged(runner, name):
    """Every value of a scalar that was logged, in order."""
    return list(runner.message_hub.get_scalar(name).data[0])


def test_losses_beside_ours_have_their_values(example):
    """CWD: tau^2 KL(teacher || student) over the pixels of a channel, averaged over channels."""
    model = build(example.model).train()
    data = model.data_preprocessor(synthetic_batch(num_classes=3), training=True)
    losses = model(**data, mode='loss')
    student, teacher = (d.extract_feat(data['inputs'])[0] for d in (model.student, model.teacher))
    log_s, log_t = (feature.flatten(2).log_softmax(-1) for feature in (student, teacher))
    expected = F.kl_div(log_s, log_t, reduction='sum', log_target=True) / log_s[..., 0].numel()
    assert expected > 1e-3
    assert_close(losses['loss_cwd'], expected, rtol=1e-4, atol=1e-6)
    normal_s, normal_t = (
        (f - f.mean((0, 2, 3), keepdim=True)) / (f.std((0, 2, 3), keepdim=True) + 1e-6)
        for f in (student, teacher)
    )
    assert_close(losses['loss_pkd'], F.mse_loss(normal_s, normal_t) / 2, rtol=1e-4, atol=1e-6)
    assert losses['loss_mgd'] > 0 and 'loss_aligned_kd.cls' in losses
    model.parse_losses(losses)[0].backward()
    gradients = [parameter.grad for parameter in model.distiller.connectors.parameters()]
    assert gradients and all(float(gradient.abs().sum()) > 0 for gradient in gradients)


@pytest.fixture(scope='module')
def trained(example, image_set, tmp_path_factory):
    """Two epochs of the example under MMRazor's stop hook and validation loop."""
    folder = tmp_path_factory.mktemp('stopped')
    config = folder / 'stopped.py'
    config.write_text(
        f"_base_ = '{EXAMPLE}'\n"
        f"model = dict(teacher_ckpt='{example.model.teacher_ckpt}')\n"
        "custom_hooks = [dict(type='TeacherCheckHook'),\n"
        "    dict(type='mmrazor.StopDistillHook', stop_epoch=1)]\n"
        "val_cfg = dict(type='mmrazor.SingleTeacherDistillValLoop')\n"
    )
    short = ['train_cfg.max_epochs=2', 'train_dataloader.batch_size=2', f'data_root={image_set}']
    short += ['default_hooks.logger.interval=1']
    runner = train.main([str(config), '--work-dir', str(folder), '--cfg-options', *short])
    return folder, runner


def test_stop_hook_and_validation_loop(trained):
    """Distillation ends with the first epoch; the teacher, in no module tree, is scored too."""
    _, runner = trained
    assert len(logged(runner, 'train/loss_cls')) == 4
    for name in ('loss_cwd', 'loss_pkd', 'loss_mgd', 'loss_aligned_kd.cls'):
        values = logged(runner, f'train/{name}')
        # a loss with parameters stays as a zero, for DDP wants all of them used
        assert all(values[:2]) and not any(values[2:]), name
    for name in ('coco/bbox_mAP', 'teacher.coco/bbox_mAP'):
        assert len(logged(runner, f'val/{name}')) == 2, name


def test_checkpoint_converter_takes_the_student_out(trained, monkeypatch):
    """MMRazor's tool and our export agree; on PyTorch >= 2.6 it needs this package's import."""
    folder, _ = trained
    checkpoint = folder / 'epoch_2.pth'
    tool = MIM / 'tools' / 'model_converters' / 'convert_kd_ckpt_to_student.py'
    monkeypatch.setattr(sys, 'argv', [str(tool), str(checkpoint)])
    runpy.run_path(str(tool), run_name='__main__')
    converted = load_checkpoint_file(str(folder / 'epoch_2_student.pth'))['state_dict']
    expected = student_state_dict(load_checkpoint_file(str(checkpoint)))
    assert converted.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(converted[name], value, rtol=0, atol=0)


STOCK = {
    'pkd/pkd_fpn_faster-rcnn_r101_faster-rcnn_r50_2x_coco.py': 'distill.loss_pkd_fpn0',
    'cwd/cwd_fpn_retina_r101_retina_r50_1x_coco.py': 'distill.loss_cwd_fpn0',
    'mgd/mgd_fpn_retina_x101_retina_r50_2x_coco.py': 'distill.loss_mgd_fpn0',
    'fbkd/fbkd_fpn_faster-rcnn_r101_faster-rcnn_r50_1x_coco.py': 'distill.loss_s0',
}


def small(detector):
    """A stock detector on a ResNet-18 without pretrained weights."""
    detector = get_config(detector['cfg_path']).model if 'cfg_path' in detector else detector
    detector.backbone = dict(type='ResNet', depth=18, num_stages=4, out_indices=(0, 1, 2, 3))
    detector.neck.in_channels = [64, 128, 256, 512]
    for part in ('neck', 'bbox_head'):  # MGD starts them from the teacher, by its URL
        if part in detector:
            detector[part].init_cfg = None
    detector.test_cfg.get('rcnn', detector.test_cfg).score_thr = 0.0  # random weights: no scores
    detector['_scope_'] = 'mmdet'
    return detector


@pytest.mark.parametrize(('name', 'loss'), STOCK.items(), ids=lambda value: value.split('/')[0])
def test_stock_configs_train(name, loss, image_set, tmp_path):
    """Two steps and one evaluation of student and teacher, through tools/train.py."""
    config = Config.fromfile(MIM / 'configs' / 'distill' / 'mmdet' / name)
    config.model.architecture = small(config.model.architecture)
    config.model.teacher = small(config.model.teacher)
    torch.save(dict(state_dict=build(config.model.teacher).state_dict()), tmp_path / 'teacher.pth')
    config.model.teacher_ckpt = str(tmp_path / 'teacher.pth')
    for split, loader in (('train', config.train_dataloader), ('val', config.val_dataloader)):
        loader.update(num_workers=0, persistent_workers=False)
        (annotations,) = image_set.rglob(f'coco_*{split}*.json')
        images = next(path for path in image_set.rglob('*.*g') if split in str(path.parent)).parent
        loader.dataset.update(
            data_root='', ann_file=str(annotations), data_prefix=dict(img=f'{images}/')
        )
        for transform in loader.dataset.pipeline:
            if transform['type'] == 'Resize':
                transform['scale'] = (SIZE, SIZE)
    config.val_evaluator.ann_file = config.val_dataloader.dataset.ann_file
    config.test_dataloader = config.test_cfg = config.test_evaluator = None
    config.dump(tmp_path / 'stock.py')
    options = ['train_cfg.max_epochs=1', 'default_hooks.logger.interval=1']
    arguments = [str(tmp_path / 'stock.py'), '--work-dir', str(tmp_path), '--cfg-options', *options]
    runner = train.main(arguments)
    values = logged(runner, f'train/{loss}')
    assert len(values) == 2 and all(0 < value < 1e4 for value in values)
    assert len(logged(runner, 'val/coco/bbox_mAP')) == 1
    scored = 'val/teacher.coco/bbox_mAP' in runner.message_hub.log_scalars
    assert scored == ('SingleTeacherDistillValLoop' in config.pretty_text)

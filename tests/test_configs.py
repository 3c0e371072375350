"""Every config loads, dumps, says how it is run, and trains for a step."""

import argparse
import math
import re
import shlex
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config, DictAction

from mmdet_detrdistill.config.load import detector_config
from tests.stepping import build_from_config, distils, load, shrink, step, synthetic_batch

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(p for p in (ROOT / 'configs').glob('*/*.py') if p.parent.name != '_base_')
STOCK = Path(mmdet.__file__).parent / '.mim' / 'configs'
COCO_FAMILIES = ('conditional_detr', 'dab_detr', 'deformable_detr', 'detr', 'dino')
PAPER = {
    'loss_logits_kd.cls',
    'loss_logits_kd.bbox',
    'loss_logits_kd.giou',
    'loss_logits_kd.neg_bbox',
    'loss_logits_kd.neg_giou',
    'logits_kd.entropy',
    'loss_feature_kd',
    'loss_assign_kd.cls',
    'loss_assign_kd.bbox',
    'loss_assign_kd.iou',
}
RECOMMENDED = {
    'loss_aligned_kd.cls',
    'loss_aligned_kd.bbox',
    'loss_aligned_kd.giou',
    'loss_aligned_kd.neg_cls',
    'loss_aligned_kd.neg_bbox',
    'loss_aligned_kd.neg_giou',
    'aligned_kd.entropy',
}
every_config = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
distillations = [path for path in CONFIGS if path.stem.startswith('detrdistill_')]
every_distillation = pytest.mark.parametrize('path', distillations, ids=lambda path: path.stem)
coco_configs = [path for path in CONFIGS if path.parent.name in COCO_FAMILIES]
wrappers = [path for path in coco_configs if path.stem.startswith('detrdistill_')]
every_wrapper = pytest.mark.parametrize('path', wrappers, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def one_thread_at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='session')
def checkpoints(tmp_path_factory):
    return tmp_path_factory.mktemp('teachers')


def header(path):
    """The comment lines before the first statement, without their `#`."""
    lines = path.read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith('#'))
    return [line[1:].strip() for line in lines[:end]]


def commands(path):
    """The `mim train` commands of a header: (package, config name, other arguments)."""
    text = '\n'.join(header(path)).replace('\\\n', ' ')
    found = []
    for line in text.splitlines():
        if line.startswith('mim train'):
            parser = argparse.ArgumentParser()
            for name in ('package', 'config', '--gpus', '--launcher', '--work-dir'):
                parser.add_argument(name)
            parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
            found.append(parser.parse_args(shlex.split(line, comments=True)[2:]))
    return found


def find(package, name):
    """The config file that `mim` finds by its bare name."""
    folder = {'mmdet': STOCK, 'mmdet_detrdistill': ROOT / 'configs'}[package]
    found = list(folder.rglob(name))
    assert len(found) == 1, f'{package} has {len(found)} configs named {name}'
    return found[0]


def plain(value):
    """Containers without the `_scope_` that an `mmdet::` base leaves in them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != '_scope_'}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@every_config
def test_loads_dumps_and_reloads(path, tmp_path):
    config = load(path)
    assert distils(config) == path.stem.startswith('detrdistill_')
    config.dump(tmp_path / 'dumped.py')
    assert load(tmp_path / 'dumped.py').to_dict() == config.to_dict()


@every_config
def test_header_says_how_to_run_and_what_to_expect(path):
    text = '\n'.join(header(path))
    command = re.search(r'mim (train|test) |python -m |python tools/|make [a-z]', text)
    assert command, 'the comment at the top lacks the command that runs the config'
    status = re.search(r'published|measured|not run', text, re.IGNORECASE)
    assert status, 'the comment at the top lacks a status: published, measured here or not run'
    assert len(path.read_text().splitlines()) <= 60


def test_base_names_are_unique():
    names = [path.name for path in CONFIGS] + [path.name for path in STOCK.rglob('*.py')]
    ours = {path.name for path in CONFIGS}
    assert len(ours) == len(CONFIGS)
    assert all(names.count(name) == 1 for name in ours), 'a name is taken by MMDetection'


@every_wrapper
def test_cfg_options_reach_student_and_teacher(path, tmp_path):
    config = load(path)
    options = {
        'model.architecture.backbone.frozen_stages': 0,
        'model.teacher_ckpt': 'elsewhere.pth',
        'model.distiller.distill_losses.loss_feature_kd': None,
        'model.distiller.distill_losses.loss_logits_kd.preset': 'released',
    }
    config.merge_from_dict(options)
    config.dump(tmp_path / 'dumped.py')
    model = load(tmp_path / 'dumped.py').model
    assert model.architecture.backbone.frozen_stages == 0
    assert model.teacher_ckpt == 'elsewhere.pth'
    assert model.distiller.distill_losses.loss_feature_kd is None
    assert model.distiller.distill_losses.loss_logits_kd.preset == 'released'


@every_wrapper
def test_commands_of_the_header_make_this_teacher_and_this_run(path):
    teacher, distil = commands(path)
    assert (distil.package, distil.config) == ('mmdet_detrdistill', path.name)

    trained = Config.fromfile(find(teacher.package, teacher.config))
    trained.merge_from_dict(teacher.cfg_options)
    config = load(path)
    expected, used = plain(trained.model), plain(detector_config(config.model.teacher))
    assert expected['backbone'].pop('init_cfg')['checkpoint'] == 'torchvision://resnet101'
    assert used['backbone'].pop('init_cfg') is None
    assert used == expected
    assert used['backbone']['depth'] == 101
    last = f'{teacher.work_dir}/epoch_{trained.train_cfg.max_epochs}.pth'
    assert config.model.teacher_ckpt == last


@pytest.mark.parametrize('path', coco_configs, ids=lambda path: path.stem)
def test_schedule_is_as_the_name_says(path):
    gpus, per_gpu, epochs = map(int, re.search(r'_(\d+)xb(\d+)-(\d+)e_coco$', path.stem).groups())
    config = load(path)
    assert config.train_cfg.max_epochs == epochs
    assert config.param_scheduler[0]['end'] == epochs
    own = commands(path)[-1]
    loader = dict(config.train_dataloader, **own.cfg_options.get('train_dataloader', {}))
    batch_size = own.cfg_options.get('train_dataloader.batch_size', loader['batch_size'])
    assert int(own.gpus) * batch_size == gpus * per_gpu
    layers = re.search(r'-(\d)enc(\d)dec', path.stem)
    student = config.model.get('architecture', config.model)
    expected = tuple(map(int, layers.groups())) if layers else (6, 6)
    assert (student.encoder.num_layers, student.decoder.num_layers) == expected


@pytest.mark.parametrize('path', wrappers, ids=lambda path: path.stem)
def test_student_is_the_student_alone(path):
    """Apart from the wrapper, a distillation run is the plain config of its student."""
    config = load(path)
    student = path.stem.replace('detrdistill_', '').replace('-from-r101', '')
    own = list(path.parent.glob(f'{student}.py'))
    alone = Config.fromfile(own[0] if own else find('mmdet', f'{student}.py'))
    assert plain(config.model.architecture) == plain(alone.model)
    added = {'custom_imports', 'custom_hooks', 'distiller', 'model'}
    for name in set(config) - added:
        assert plain(config[name]) == plain(alone[name]), name


plain_students = [path for path in coco_configs if path not in wrappers]


@pytest.mark.parametrize('path', plain_students, ids=lambda path: path.stem)
def test_plain_student_takes_a_step(path, tmp_path):
    model, optim_wrapper = build_from_config(shrink(load(path), tmp_path))
    log_vars, gradients = step(model, optim_wrapper, synthetic_batch())
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in log_vars.values())
    for part in ('backbone', 'neck', 'encoder', 'decoder', 'bbox_head'):
        assert any(value > 0 for name, value in gradients.items() if name.startswith(part)), part


@every_distillation
def test_distillation_takes_a_step(path, checkpoints):
    config = shrink(load(path), checkpoints)
    model, optim_wrapper = build_from_config(config)
    teacher = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    num_classes = config.model.architecture.bbox_head.num_classes
    batch = synthetic_batch(num_boxes=(3, 0), num_classes=num_classes)
    log_vars, gradients = step(model, optim_wrapper, batch)

    values = {name: float(torch.as_tensor(value).detach()) for name, value in log_vars.items()}
    assert all(math.isfinite(value) for value in values.values()), values
    assert {'loss_cls', 'loss_bbox', 'loss_iou'} <= set(values)
    expected = PAPER if path.parent.name in COCO_FAMILIES else RECOMMENDED
    assert {name for name in values if '_kd' in name} == expected
    assert all(values[name] > 0 for name in expected), values
    for part in ('backbone', 'neck', 'encoder', 'decoder', 'bbox_head'):
        owner = f'architecture.{part}'
        assert any(value > 0 for name, value in gradients.items() if name.startswith(owner)), part

    nothing_to_find = synthetic_batch(num_boxes=(0, 0), num_classes=num_classes)
    log_vars, _ = step(model, optim_wrapper, nothing_to_find)
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in log_vars.values())

    torch.testing.assert_close(dict(model.teacher.state_dict()), teacher, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    trained = {id(p) for group in optim_wrapper.optimizer.param_groups for p in group['params']}
    assert not trained & {id(parameter) for parameter in model.teacher.parameters()}
    assert all(key.split('.')[0] in ('architecture', 'distiller') for key in model.state_dict())

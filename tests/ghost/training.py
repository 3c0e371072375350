"""A training on the second device with every hook, interrupted, resumed and exported.

    pytest tests/ghost/training.py

`tests/test_ghost.py` runs this in a process of its own.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.device import utils as devices
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, set_random_seed

from mmdet_detrdistill import api
from mmdet_detrdistill.checkpoints.read import load_checkpoint_file, load_state_strictly
from tests.ghost import device
from tests.tiny_detectors import batch
from tests.trainings import (
    distillation,
    draw_pictures,
    load_tool,
    save_teacher,
    unformatted_configs,
)

if not device.AVAILABLE:
    pytest.skip('PyTorch before 2.10 has no backend in Python', allow_module_level=True)
#: what depends on the clock or on the memory of a device
CLOCK = ('time', 'data_time', 'memory', 'eta')
EPOCHS, ITERATIONS = 2, 4


class InterruptionError(Exception):
    pass


@HOOKS.register_module()
class InterruptionHook(Hook):
    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == ITERATIONS + 2:
            raise InterruptionError


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Data and a teacher that has another first class, and the others in another order."""
    folder = tmp_path_factory.mktemp('ghost')
    draw_pictures(folder / 'data')
    path = save_teacher(folder / 'teacher.pth')
    checkpoint = torch.load(path)
    checkpoint['meta']['dataset_meta'] = dict(classes=('square', 'ring', 'circle'))
    torch.save(checkpoint, path)
    return folder


@pytest.fixture(scope='module')
def config(folder):
    config = distillation(folder / 'data', folder / 'teacher.pth', epochs=EPOCHS)
    config.model.class_map = 'auto'
    config.custom_hooks = [
        dict(type='TeacherCheckHook', min_map=0.0),
        dict(type='LossWeightScheduleHook', factors=dict(loss_feature_kd=[(0, 0), (2, 1)])),
        dict(type='TeacherQueryInjectionHook', end=2, fade=1),
        dict(type='AdaptiveLossWeightHook', shares=dict(loss_logits_kd=0.5), interval=3),
        dict(type='AssignmentStabilityHook', num_images=2),
        dict(type='PairPicturesHook', interval=ITERATIONS),
        dict(type='StudentCheckpointHook'),
        dict(type='EMAHook'),
    ]
    config.optim_wrapper.clip_grad = dict(max_norm=0.1, norm_type=2)
    return config


def train(config, folder, name, hooks=(), **options):
    config = Config(config.to_dict())
    config.custom_hooks = [*config.custom_hooks, *(dict(type=hook) for hook in hooks)]
    config.experiment_name = name
    with unformatted_configs():
        api.train(config, str(folder), **options)


@pytest.fixture(scope='module')
def runs(config, folder):
    """Work folders: on the CPU, and on the second device, interrupted and resumed."""
    found = SimpleNamespace(cpu=folder / 'cpu', ghost=folder / 'ghost')
    train(config, found.cpu, 'cpu')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, 'DEVICE', 'ghost')
        read = Runner.load_checkpoint  # MMEngine would have torch.load write to the device
        patch.setattr(Runner, 'load_checkpoint', lambda self, path, *_, **__: read(self, path))
        with pytest.raises(InterruptionError):
            train(config, found.ghost, 'interrupted', ['InterruptionHook'])
        train(config, found.ghost, 'resumed', resume='auto')
    return found


def unequal(first, second, at=''):
    """Names of what differs, tensors compared bit by bit."""
    if isinstance(first, dict):
        names = [*first, *(name for name in second if name not in first)]
        return [
            found
            for name in names
            for found in unequal(first.get(name), second.get(name), f'{at}.{name}')
        ]
    if isinstance(first, torch.Tensor):
        same = isinstance(second, torch.Tensor) and torch.equal(first, second)
    elif isinstance(first, np.ndarray):
        same = np.array_equal(first, second)
    else:
        same = first == second
    return [] if same else [at]


def test_checkpoints_are_those_of_the_cpu(runs):
    """Weights, their average, optimizer, strengths of the adaptive weights, assignments."""
    name = f'epoch_{EPOCHS}.pth'
    contents = [load_checkpoint_file(str(path / name)) for path in (runs.cpu, runs.ghost)]
    for content in contents:
        info = content['message_hub'].pop('runtime_info')
        content['kept'] = {k: v for k, v in info.items() if k.startswith(('distil', 'assign'))}
        assert len(content['kept']) == 2
        for part in ('meta', 'message_hub'):
            content.pop(part)
    assert unequal(*contents) == []


def logged(work_dir):
    """By step, what was logged for it last."""
    rows = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            row = {k: v for k, v in json.loads(line).items() if k not in CLOCK}
            rows[row['step'], 'loss' in row, 'assignment/instability' in row] = row
    return rows


def test_logs_are_those_of_the_cpu(runs):
    """Losses, factors, weights, gradient norms, scores and stability of every iteration."""
    rows = logged(runs.cpu)
    assert len([row for row in rows.values() if 'logits_kd.weight' in row]) == EPOCHS * ITERATIONS
    assert any('assignment/instability' in row for row in rows.values())
    assert unequal(rows, logged(runs.ghost)) == []


def test_drawings_are_those_of_the_cpu(runs):
    drawn = [
        {image.name: image.read_bytes() for image in path.glob('*/vis_data/vis_image/*.png')}
        for path in (runs.cpu, runs.ghost)
    ]
    assert len(drawn[0]) >= 5 * EPOCHS
    assert unequal(*drawn) == []


@pytest.fixture(scope='module')
def written(config, folder):
    with unformatted_configs():
        config.dump(folder / 'config.py')
    return str(folder / 'config.py')


def test_the_exported_student_predicts_as_on_the_cpu(runs, written, folder):
    """tools/export_student.py on the checkpoint of the second device, and the hook's export."""
    checkpoint = str(runs.ghost / f'epoch_{EPOCHS}.pth')
    with unformatted_configs():
        paths = load_tool('export_student').main([written, checkpoint, '--out', str(folder / 'e')])
    states = [
        load_checkpoint_file(str(path))['state_dict']
        for path in (paths[1], runs.ghost / 'student_last.pth', runs.cpu / 'student_last.pth')
    ]
    assert unequal(states[0], states[1]) == unequal(states[0], states[2]) == []
    with DefaultScope.overwrite_default_scope('mmdet'):
        student = MODELS.build(Config.fromfile(paths[0]).model).eval()
    load_state_strictly(student, states[0], paths[1], 'student')
    found = [predictions(student, *batch())]
    student.to('ghost')
    images, samples = batch()
    found.append(predictions(student, images.to('ghost'), [s.to('ghost') for s in samples]))
    assert len(found[0]) == 2 and found[0][0]['scores'].shape == (10,)
    assert [unequal(*pair) for pair in zip(*found)] == [[], []]


@torch.no_grad()
def predictions(detector, images, samples):
    found = [sample.pred_instances.cpu() for sample in detector.predict(images, samples)]
    return [{name: found[name] for name in ('bboxes', 'labels', 'scores')} for found in found]


def test_check_prints_the_table_of_the_cpu(written, capsys):
    """All but seconds, memory and what a step is made of."""
    tables = []
    for name in ('cpu', 'ghost'):
        capsys.readouterr()
        set_random_seed(0)
        code = load_tool('check').main([written, '--device', name])
        out, err = capsys.readouterr()
        assert code == 0, err
        tables.append([line for line in out.splitlines() if not timed(line)])
    assert any('loss_assign_kd' in line for line in tables[0]) and tables[0][-1] == 'FITS'
    assert tables[0] == tables[1]


def timed(line):
    return line.startswith(('seconds', 'peak memory', 'a step')) or ' is large: ' in line

"""train.py and test.py do what `mim train` and `mim test` ask of them."""

import importlib.util
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from mmdet_detrdistill.checkpoints.read import CheckpointError, load_checkpoint_file
from mmdet_detrdistill.config import launch

ROOT = Path(__file__).parents[2]
SMALL = ROOT / 'configs' / '_base_' / 'deformable-detr_small_shapes.py'
SHARED = ROOT / 'configs' / '_base_' / 'detrdistill.py'
DISTILLATION = """
_base_ = ['{small}', '{shared}']
model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher='{small}',
    teacher_ckpt='{teacher}',
    distiller=_base_.distiller)
"""


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / 'tools' / f'{name}.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


train, test, make_shapes = (load_tool(name) for name in ('train', 'test', 'make_shapes'))


@pytest.fixture(scope='module')
def options(tmp_path_factory):
    """A data set of a few small images, and one epoch on it."""
    data = tmp_path_factory.mktemp('shapes')
    make_shapes.main([str(data), '--train', '4', '--val', '2', '--size', '64'])
    return [
        f'data_root={data}',
        'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=2',
        'default_hooks.logger.interval=1',
    ]


@pytest.fixture(scope='module')
def teacher(options, tmp_path_factory):
    """Checkpoint and work folder of a plain training, written by train.py."""
    folder = tmp_path_factory.mktemp('teacher')
    train.main([str(SMALL), '--work-dir', str(folder), '--cfg-options', *options])
    return folder / 'epoch_1.pth'


@pytest.fixture(scope='module')
def distillation(options, teacher, tmp_path_factory):
    """Config and checkpoint of a distillation, written by train.py."""
    folder = tmp_path_factory.mktemp('distillation')
    config = folder / 'tiny-distillation.py'
    config.write_text(DISTILLATION.format(small=SMALL, shared=SHARED, teacher=teacher))
    train.main([str(config), '--work-dir', str(folder), '--cfg-options', *options])
    return config, folder / 'epoch_1.pth'


def evaluate(config, checkpoint, options, folder, *more):
    common = ['--work-dir', str(folder), '--cfg-options', *options]
    return test.main([str(config), str(checkpoint), *more, *common])


def test_distillation_checkpoint_holds_no_teacher(distillation):
    keys = load_checkpoint_file(str(distillation[1]))['state_dict']
    assert {key.split('.')[0] for key in keys} <= {'architecture', 'distiller'}


def test_distilled_student_is_evaluated_without_its_teacher(distillation, options, tmp_path):
    config, checkpoint = distillation
    out = tmp_path / 'predictions.pkl'
    alone = [*options, 'model.teacher_ckpt=moved/away.pth']
    more = ('--out', str(out), '--show-dir', 'drawn')
    metrics = evaluate(config, checkpoint, alone, tmp_path, *more)
    assert 'coco/bbox_mAP' in metrics
    assert len(pickle.loads(out.read_bytes())) == 2
    assert len([path for path in tmp_path.glob('*/drawn/*') if path.is_file()]) == 2
    # the same student under its own plain config
    weights = {
        key[len('architecture.') :]: value
        for key, value in load_checkpoint_file(str(checkpoint))['state_dict'].items()
        if key.startswith('architecture.')
    }
    torch.save({'state_dict': weights}, tmp_path / 'student.pth')
    plain = evaluate(SMALL, tmp_path / 'student.pth', options, tmp_path)
    assert plain == pytest.approx(metrics, rel=0, abs=0, nan_ok=True)  # NaN: a class not there


def test_weights_of_another_detector_are_refused(teacher, options, tmp_path):
    wider = [*options, 'model.bbox_head.num_classes=3', 'coco_format=False']
    with pytest.raises(CheckpointError, match=r'epoch_1\.pth does not fit the student'):
        evaluate(SMALL, teacher, wider, tmp_path)


def test_resume_takes_the_newest_checkpoint(teacher, options, tmp_path):
    folder = tmp_path / 'again'
    shutil.copytree(teacher.parent, folder)
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
    two = [*options, 'train_cfg.max_epochs=2']
    train.main([str(SMALL), '--resume', '--work-dir', str(folder), '--cfg-options', *two])
    assert load_checkpoint_file(str(folder / 'epoch_2.pth'))['meta']['iter'] == 4


def parsed(tool, *arguments):
    parser = tool.build_parser()
    return parser.parse_args([str(SMALL), *arguments])


@pytest.mark.parametrize('spelling', ['--local_rank', '--local-rank'])
@pytest.mark.parametrize('tool', [train, test])
def test_launcher_options(tool, spelling):
    more = ['weights.pth'] if tool is test else []
    found = parsed(tool, *more, '--launcher', 'pytorch', f'{spelling}=3')
    assert (found.launcher, found.local_rank) == ('pytorch', 3)


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [([], None), (['--resume'], 'auto'), (['--resume', 'a.pth'], 'a.pth')],
)
def test_resume_option(arguments, expected):
    assert parsed(train, *arguments).resume == expected


@pytest.mark.parametrize('kind', ['OptimWrapper', 'mmengine.OptimWrapper', OptimWrapper])
def test_amp(kind, monkeypatch):
    config = Config(dict(optim_wrapper=dict(type=kind)))
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    with pytest.raises(ValueError, match='--amp needs a GPU'):
        launch.use_mixed_precision(config)
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    launch.use_mixed_precision(config)
    assert config.optim_wrapper == dict(type='AmpOptimWrapper', loss_scale='dynamic')
    config.optim_wrapper.type = 'ApexOptimWrapper'
    with pytest.raises(ValueError, match='ApexOptimWrapper'):
        launch.use_mixed_precision(config)


def test_learning_rate():
    config = Config(dict())
    with pytest.raises(ValueError, match='base_batch_size'):
        launch.scale_learning_rate(config)
    config.auto_scale_lr = dict(base_batch_size=16)
    launch.scale_learning_rate(config)
    assert config.auto_scale_lr.enable


def test_a_hook_that_is_switched_off_is_left_out():
    """The small configs have one of ours among `default_hooks`; MMEngine asserts it is not None."""
    off = ['default_hooks.stability=None', 'default_hooks.timer=None', 'coco_format=False']
    hooks = train.read_config(parsed(train, '--cfg-options', *off)).default_hooks
    assert 'stability' not in hooks
    assert hooks.timer is None


def test_work_folder_is_named_after_the_config():
    config = train.read_config(parsed(train, '--cfg-options', 'coco_format=False'))
    assert Path(config.work_dir) == Path('work_dirs') / SMALL.stem


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, r'broken\.py does not exist'),
        ('model = dict(', r'broken\.py: SyntaxError'),
        ("_base_ = 'gone.py'", r'broken\.py, or .*gone\.py'),
        ('x = 1', r'broken\.py has no `model`'),
        ("model = dict(type='DETR')\ncoco_format = True\ndata_root = 'x'", r'broken\.py: '),
    ],
)
def test_bad_config(tmp_path, content, message):
    path = tmp_path / 'broken.py'
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as caught:
        train.main([str(path)])
    assert re.search(message, str(caught.value))


def test_bad_output_file(teacher, options, tmp_path):
    with pytest.raises(SystemExit, match=r'\.pkl'):
        evaluate(SMALL, teacher, options, tmp_path, '--out', 'predictions.txt')

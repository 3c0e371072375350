"""tools/distill.py on stock configs of four families: written, checked, trained for an epoch."""

import importlib.util
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

import mmdet_detrdistill
from mmdet_detrdistill.api import batch_note, write_config
from mmdet_detrdistill.checkpoints.read import load_checkpoint_file
from mmdet_detrdistill.config.coco_format import resolve_coco_format
from mmdet_detrdistill.config.load import detector_config
from mmdet_detrdistill.config.write import RECOMMENDED, loss_configs

ROOT = Path(__file__).resolve().parents[2]
STOCK = {
    'detr': 'mmdet::detr/detr_r50_8xb2-150e_coco.py',
    'conditional': 'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
    'deformable': 'mmdet::deformable_detr/deformable-detr-refine_r50_16xb2-50e_coco.py',
    'dino': 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
}
RESIZE = 'train_dataloader.dataset.pipeline.3.transforms'
SHRINK_DATA = [
    f'{RESIZE}.0.0.scales=[(96,96)]',
    f'{RESIZE}.1.0.scales=[(96,96)]',
    f'{RESIZE}.1.1.crop_size=(64,64)',
    f'{RESIZE}.1.2.scales=[(96,96)]',
    'val_dataloader.dataset.pipeline.1.scale=(96,96)',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val')),
    'train_cfg.max_epochs=1',
    'default_hooks.logger.interval=1',
]


def load_tool(name):
    spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / 'tools' / f'{name}.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


distill, check, make_shapes = (load_tool(name) for name in ('distill', 'check', 'make_shapes'))


def shrink(side, channels, layers, more=()):
    """What a user without a GPU would change of a stock detector, for `--cfg-options`."""
    single = side.startswith(('detr', 'conditional'))
    settings = [
        'backbone.depth=18',
        'backbone.base_channels=8',
        'backbone.init_cfg=None',
        f'neck.in_channels={[64] if single else [16, 32, 64]}'.replace(' ', ''),
        'encoder.num_layers=1',
        f'decoder.num_layers={layers}',
        'num_queries=20',
        'test_cfg.max_per_img=20',
        *(['dn_cfg.group_cfg.num_dn_queries=6'] if side == 'dino' else []),
    ]
    return [f'model.{channels}.{setting}' for setting in settings]


def options_for(family, data):
    sides = shrink(family, 'architecture', 1) + shrink(family, 'teacher', 2)
    return ['--data-root', str(data), '--cfg-options', *SHRINK_DATA, *sides]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes')
    make_shapes.main([str(folder), '--train', '4', '--val', '2', '--size', '64'])
    return folder


def save_random_teacher(config, path):
    with DefaultScope.overwrite_default_scope('mmdet'):
        teacher = MODELS.build(detector_config(config.model.teacher))
        teacher.init_weights()
    names = config.get('classes')
    meta = {} if names is None else dict(dataset_meta=dict(classes=names))
    torch.save(dict(state_dict=teacher.state_dict(), meta=meta), path)


@pytest.mark.parametrize('family', STOCK)
def test_stock_config_is_written_checked_and_trained(family, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stock = STOCK[family]
    command = [stock, '--teacher', stock, '--out', 'mine.py', *options_for(family, data)]
    distill.main([*command, '--random-teacher'])
    out = capsys.readouterr().out
    assert 'FITS\n' in out and 'next: python tools/train.py mine.py' in out
    config = Config.fromfile('mine.py')
    assert config.model.teacher == dict(cfg_path=stock, options=config.model.teacher.options)
    assert config.model.teacher.options['decoder.num_layers'] == 2

    resolve_coco_format(config)
    save_random_teacher(config, 'teacher.pth')
    assert check.main(['mine.py', '--device', 'cpu']) == 0
    command += ['--teacher-ckpt', 'teacher.pth', '--work-dir', 'runs']
    if family == 'detr':  # the same as a Python call
        args = distill.build_parser().parse_args(command)
        options = dict(options=args.cfg_options, out='mine.py', work_dir='runs')
        mmdet_detrdistill.distill(stock, stock, 'teacher.pth', data_root=str(data), **options)
    else:
        distill.main(command)  # the same file is written: it is kept
        assert 'first batch of the training data' in capsys.readouterr().out
    keys = load_checkpoint_file('runs/epoch_1.pth')['state_dict']
    assert any(key.startswith('architecture.') for key in keys)
    log = next(Path('runs').glob('*/*.log')).read_text()
    for term in ('loss_aligned_kd.cls', 'coco/bbox_mAP'):
        assert f' {term}: ' in log


PLAIN = """\
# Student student.py, teacher mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py.
# Written by tools/distill.py, yours to change.
#   python tools/check.py made/mine.py
#   python tools/train.py made/mine.py
_base_ = '../student.py'

custom_imports = dict(imports=['mmdet_detrdistill'])
custom_hooks = [dict(type='EMAHook'), dict(type='TeacherCheckHook')]
train_cfg = dict(max_epochs=3)
model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher='mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    teacher_ckpt='teacher.pth',
    distiller=dict(
        type='DETRDistiller',
        distill_losses=dict(loss_aligned_kd=dict(type='AlignedKDLoss', loss_weight=0.5)),
    ),
)
"""


@pytest.fixture
def student(tmp_path, monkeypatch):
    """A user's own student in the working directory."""
    monkeypatch.chdir(tmp_path)
    text = f"_base_ = {STOCK['dino']!r}\ncustom_hooks = [dict(type='EMAHook')]\n"
    (tmp_path / 'student.py').write_text(text)
    return ('student.py', STOCK['dino'], 'teacher.pth')


def test_what_is_written(student):
    options = {
        'train_cfg.max_epochs': 3,
        'model.distiller.distill_losses.loss_aligned_kd.loss_weight': 0.5,
    }
    assert write_config(*student, options=options, out='made/mine.py') == 'made/mine.py'
    assert Path('made/mine.py').read_text() == PLAIN
    written, own = Config.fromfile('made/mine.py'), Config.fromfile('student.py')
    assert written.model.architecture == own.model
    assert written.train_cfg == dict(own.train_cfg, max_epochs=3)
    assert write_config(*student) == 'detrdistill_student-from-dino-4scale_r50_8xb2-12e_coco.py'


@pytest.mark.parametrize(
    'given, names',
    [
        (['paper'], ['logits', 'feature', 'assign']),
        (['logits', 'aligned'], ['logits', 'aligned']),
        (['aligned', 'paper'], ['aligned', 'logits', 'feature', 'assign']),
    ],
    ids=' '.join,
)
def test_losses_are_chosen_by_name(given, names, student):
    arguments = [*student[:1], '--teacher', student[1], '--losses', *given]
    losses = distill.build_parser().parse_args(arguments).losses
    config = Config.fromfile(write_config(*student, losses=losses))
    written = config.model.distiller.distill_losses
    assert list(written) == [f'loss_{name}_kd' for name in names]
    assert all(loss.type.lower() == f'{n}kdloss' for n, loss in zip(names, written.values()))


@pytest.mark.parametrize(
    ('name', 'given'), [('detrdistill', RECOMMENDED), ('detrdistill_paper', ['paper'])]
)
def test_the_bases_of_our_configs_have_the_same_losses(name, given):
    base = Config.fromfile(ROOT / 'configs' / '_base_' / f'{name}.py')
    assert base.distiller.distill_losses == loss_configs(given)


@pytest.mark.parametrize('given', [[], ['kd']])
def test_an_unknown_loss_is_refused(given, student):
    with pytest.raises(ValueError, match=r"losses must be some of .*aligned, or 'paper'"):
        write_config(*student, losses=given)


def test_a_pair_without_injection_is_told_the_losses_that_serve_it(student):
    arguments = [STOCK['detr'], '--teacher', STOCK['dino'], '--random-teacher', '--cfg-options']
    arguments += shrink('detr', 'architecture', 1) + shrink('dino', 'teacher', 1)
    with pytest.raises(SystemExit, match='--losses logits feature'):
        distill.main(arguments)
    distill.main([*arguments, '--out', 'other.py', '--losses', 'logits', 'feature'])


def test_an_option_that_reaches_into_a_list_changes_nothing_else_of_it(student):
    path = write_config(*student, options={'param_scheduler.0.gamma': 0.5})
    written, own = Config.fromfile(path), Config.fromfile('student.py')
    assert written.param_scheduler == [dict(own.param_scheduler[0], gamma=0.5)]


def test_a_changed_config_is_not_overwritten(student):
    path = write_config(*student)
    Path(path).write_text('# mine')
    with pytest.raises(FileExistsError, match='exists and says something else'):
        write_config(*student)
    assert Path(path).read_text() == '# mine'


@pytest.mark.parametrize(
    'changes, options, error, message',
    [
        (('nowhere.py',), {}, FileNotFoundError, 'student config nowhere.py does not exist'),
        (('mmdet::_base_/default_runtime.py',), {}, ValueError, 'has no `model`'),
        ((), {'model.num_queries': 5}, ValueError, 'call it model.architecture.num_queries for'),
        ((), {'train_ann': 'a.json'}, ValueError, 'train_ann: .* need data_root'),
    ],
)
def test_what_belongs_nowhere_is_refused(student, changes, options, error, message):
    with pytest.raises(error, match=message):
        write_config(*changes, *student[len(changes) :], options=options)
    assert [path.name for path in Path().iterdir()] == ['student.py']


def test_missing_data_stop_before_training(student):
    """The checkpoint fits; COCO is not there."""
    own = [f'model.{side}.bbox_head.num_classes=80' for side in ('architecture', 'teacher')]
    options = shrink('dino', 'architecture', 1) + shrink('dino', 'teacher', 1) + own
    arguments = [student[0], '--teacher', student[1], '--cfg-options', *options]
    given = distill.build_parser().parse_args(arguments).cfg_options
    config = Config.fromfile(write_config(*student, options=given))
    save_random_teacher(config, 'teacher.pth')
    with pytest.raises(SystemExit, match=r'no training data: .*instances_train2017.json'):
        distill.main(['--teacher-ckpt', 'teacher.pth', *arguments])


def test_a_teacher_that_does_not_fit_stops_before_training(student):
    torch.save(dict(state_dict={'a': torch.zeros(1)}, meta={}), 'teacher.pth')
    own = shrink('dino', 'architecture', 1) + shrink('dino', 'teacher', 1)
    arguments = [student[0], '--teacher', student[1], '--teacher-ckpt', 'teacher.pth']
    with pytest.raises(SystemExit, match=r'teacher\.pth does not fit the teacher'):
        distill.main([*arguments, '--cfg-options', *own])


def test_schedule_for_another_batch_is_named():
    config = Config(
        dict(auto_scale_lr=dict(base_batch_size=16), train_dataloader=dict(batch_size=2))
    )
    assert 'meant for batches of 16, one GPU here makes 2' in batch_note(config)
    config.auto_scale_lr.enable = True
    assert batch_note(config) == ''

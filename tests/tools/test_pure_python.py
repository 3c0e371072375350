"""MMEngine's pure Python configs, classes as types, through every tool."""

import pytest
from mmengine.config import Config

from mmdet_detrdistill.config.load import load_config
from mmdet_detrdistill.config.read import open_config
from tests import trainings
from tests.pure_python import no_text_types, pure_python


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """`student.py`, `distil.py` that reads it and wraps its model, and a trained `run`."""
    folder = tmp_path_factory.mktemp('pure')
    trainings.draw_images(folder / 'data')
    trainings.save_teacher(folder / 'teacher.pth')
    config = trainings.distillation(folder / 'data', folder / 'teacher.pth', epochs=1)
    student = Config({**config.to_dict(), 'model': config.model.architecture, 'custom_hooks': []})
    (folder / 'student.py').write_text(pure_python(student))
    added = Config(dict(distillation=config.model, custom_hooks=config.custom_hooks))
    text = pure_python(added, base='student')
    text += 'distillation.update(architecture=model)\nmodel = distillation\n'
    (folder / 'distil.py').write_text(text)
    assert no_text_types(Config.fromfile(folder / 'distil.py').model)
    return folder


def run(folder, name, *command):
    ended = trainings.run_tool(name, list(map(str, command)), folder / f'{name}.log')
    assert ended.code in (0, None), ended.output
    return ended.output


def test_checked_trained_resumed_and_tested(folder):
    path, work = folder / 'distil.py', folder / 'run'
    assert 'FITS' in run(folder, 'check', path, '--device', 'cpu')
    said = run(folder, 'train', path, '--work-dir', work)
    assert 'SafeCheckpointHook' in said and 'IterationSeedHook' in said
    two = ['--cfg-options', 'train_cfg.max_epochs=2']
    assert 'resumed epoch: 1' in run(folder, 'train', path, '--work-dir', work, '--resume', *two)
    out = folder / 'predictions.pkl'
    assert 'bbox_mAP' in run(folder, 'test', path, work / 'epoch_2.pth', '--out', out)
    assert out.is_file()
    run(folder, 'export_student', path, work / 'epoch_2.pth', '--out', folder / 'plain')
    plain = folder / 'plain'
    assert 'bbox_mAP' in run(folder, 'test', plain / 'student.py', plain / 'student_epoch_2.pth')


def test_a_distillation_is_written_for_a_student_of_that_style(folder, monkeypatch):
    """Its entries are copied, with types by name; it is checked, and nothing else is written."""
    monkeypatch.chdir(folder)
    made = folder / 'made.py'
    options = ['--cfg-options', 'train_cfg.max_epochs=7', 'model.architecture.num_queries=11']
    command = ['student.py', '--teacher', 'student.py', '--random-teacher', '--out', 'made.py']
    assert 'FITS' in run(folder, 'distill', *command)
    made.unlink()
    assert 'FITS' in run(folder, 'distill', *command, *options)
    written, own = Config.fromfile(made), load_config('student.py')
    assert written.train_cfg == dict(own.train_cfg, max_epochs=7)
    assert written.train_dataloader == own.train_dataloader
    assert written.model.architecture == dict(cfg_path='student.py', options=dict(num_queries=11))
    assert not list(folder.glob('*unfinished*'))


def test_what_does_not_load_is_not_written(folder, monkeypatch):
    monkeypatch.chdir(folder)
    from mmdet_detrdistill import api

    monkeypatch.setattr(api, 'compose', lambda *args: 'model = dict(type=<class DINO>)')
    with pytest.raises(ValueError, match='SyntaxError'):
        api.write_config('student.py', 'student.py', 'a.pth', out='broken.py')
    assert not list(folder.glob('*broken*'))


def test_names_that_both_have_mean_the_class_that_was_given(tmp_path):
    """MMCV and MMDetection have a `LoadAnnotations` each, of a registry each."""
    lines = ['from mmengine.config import read_base', 'from mmcv.transforms import LoadAnnotations']
    lines += ['from mmdet.datasets.transforms import LoadAnnotations as Boxes', 'import torch.nn']
    lines += ['from torch.optim import AdamW', 'from mmdet_detrdistill import TeacherCheckHook']
    lines += ['from tests.pure_python import pure_python', 'model = dict(type=TeacherCheckHook)']
    lines += [
        'steps = [dict(type=LoadAnnotations), dict(type=Boxes)]',
        'other = (AdamW, pure_python)',
    ]
    (tmp_path / 'config.py').write_text('\n'.join(lines))
    config = open_config(str(tmp_path / 'config.py'))
    assert config.steps == [dict(type='mmengine.LoadAnnotations'), dict(type='LoadAnnotations')]
    assert config.model == dict(type='TeacherCheckHook')
    assert config.other == ('AdamW', 'tests.pure_python.pure_python')
    assert config.default_scope == 'mmdet'

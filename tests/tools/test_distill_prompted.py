"""A zero-shot teacher in one command: stock Grounding DINO into DINO R18, names of the data."""

import importlib.util
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_detrdistill.check.run import check
from mmdet_detrdistill.config.coco_format import resolve_coco_format
from mmdet_detrdistill.config.read import open_config
from tests.departing_detectors import (
    GROUNDING_DINO,
    GROUNDING_DINO_OPTIONS,
    SHAPES,
    language_model,
)
from tests.stepping import shrunk_options
from tests.tools.test_distill import SHRINK_DATA, STOCK, distill, save_random_teacher, shrink

pytest.importorskip('transformers')
MADE = importlib.util.spec_from_file_location(
    'make_shapes', Path(__file__).resolve().parents[2] / 'tools' / 'make_shapes.py'
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    make_shapes = importlib.util.module_from_spec(MADE)
    MADE.loader.exec_module(make_shapes)
    folder = tmp_path_factory.mktemp('shapes')
    make_shapes.main([str(folder), '--train', '4', '--val', '2', '--size', '64'])
    assert tuple(make_shapes.CLASSES) == SHAPES
    return folder


def test_documented_config(tmp_path):
    """The config of docs/support.md: the names of the data are the prompt, and a step is taken."""
    page = (Path(__file__).resolve().parents[2] / 'docs' / 'support.md').read_text()
    code = re.search(r'```python\n(_base_ = .*?)```', page, re.DOTALL).group(1)
    (tmp_path / 'mine.py').write_text(code)
    config = open_config(str(tmp_path / 'mine.py'), needs_data=False)
    small = {**GROUNDING_DINO_OPTIONS, 'language_model.name': language_model()}
    config.model.teacher = dict(cfg_path=config.model.teacher, options=small)
    student = {'backbone.depth': 18, **shrunk_options(config.model.architecture)}
    student['neck.in_channels'] = [16, 32, 64]  # of a ResNet-18
    config.merge_from_dict({f'model.architecture.{key}': value for key, value in student.items()})

    parts = check(config, random_teacher=True, synthetic=True, size=(64, 96))
    rows = dict(row for part in parts for row in part)
    assert rows['detector'] == 'DINO / GroundingDINO'
    prompt = rows['classes by name']
    assert prompt.startswith('the teacher is prompted with person, bicycle, car, ')
    assert 'couch, potted plant, bed, dining table, toilet, television, laptop' in prompt
    for name in ('loss_logits_kd.cls', 'loss_logits_kd.neg_bbox'):
        assert float(rows[name]) > 0


def test_one_command(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = {**GROUNDING_DINO_OPTIONS, 'language_model.name': language_model()}
    teacher = [f'model.teacher.{name}={value}'.replace(' ', '') for name, value in small.items()]
    command = [STOCK['dino'], '--teacher', GROUNDING_DINO, '--data-root', str(data)]
    command += ['--out', 'mine.py', '--work-dir', 'runs', '--cfg-options', *SHRINK_DATA]
    command += [*shrink('dino', 'architecture', 2), *teacher, 'model.class_map.frame=small_square']

    distill.main([*command, '--random-teacher'])
    shown = capsys.readouterr().out
    assert 'prompted with circle, hexagon, ring, small_square, square, ' in shown
    assert 'TeacherQueryInjection' in shown and 'FITS\n' in shown

    config = Config.fromfile('mine.py')
    resolve_coco_format(config)
    assert config.model.architecture.options['bbox_head.num_classes'] == len(SHAPES)
    assert 'bbox_head.num_classes' not in config.model.teacher.options, 'its own stay'
    save_random_teacher(config, 'teacher.pth')
    distill.main([*command, '--teacher-ckpt', 'teacher.pth'])
    log = next(Path('runs').glob('*/*.log')).read_text()
    assert 'Teacher check: the teacher is prompted with circle, ' in log
    for term in ('loss_aligned_kd.cls', 'coco/bbox_mAP'):
        assert f' {term}: ' in log

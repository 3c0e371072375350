"""What docs/method.md names exists, and the config of docs/configs.md takes a step."""

import re
from pathlib import Path

import pytest
import torch

from mmdet_detrdistill.losses import AssignKDLoss, FeatureKDLoss, LogitsKDLoss
from tests.docs.commands import own_config
from tests.stepping import (
    build_from_config,
    load,
    save_random_teacher,
    shrink,
    step,
    synthetic_batch,
)

ROOT = Path(__file__).resolve().parents[2]
METHOD = (ROOT / 'docs' / 'method.md').read_text()


def named_objects(text):
    """(file, name) of every `file.py::name` and of the `::name` that follow it in a row."""
    found, file = [], None
    for given, name in re.findall(r'`([\w/]+\.py)?::(\w+)`', text):
        file = given or file
        found.append((file, name))
    return found


def test_functions_and_tests_exist():
    named = named_objects(METHOD)
    assert len(named) > 30
    for file, name in named:
        path = ROOT / file if file.startswith('tests/') else ROOT / 'mmdet_detrdistill' / file
        assert re.search(rf'^\s*(def|class) {name}\b', path.read_text(), re.MULTILINE), (file, name)


@pytest.mark.parametrize('loss', [LogitsKDLoss, FeatureKDLoss, AssignKDLoss])
def test_preset_tables_are_the_code_s(loss):
    section = METHOD.split(f'| option of `{loss.__name__}` |')[1].split('\n\n')[0]
    rows = [line.split('|')[1:4] for line in section.splitlines() if line.startswith('| `')]
    documented = {re.search(r'`(\w+)`', row[0]).group(1): row[1:] for row in rows}
    paper, released = (vars(loss(preset=preset).options) for preset in ('paper', 'released'))
    differing = {name for name in paper if paper[name] != released[name]}
    assert set(documented) == differing
    for name, cells in documented.items():
        for cell, options in zip(cells, (paper, released)):
            assert cell.split('`')[1] == str(options[name]), (name, cell)


def test_distillation_config(tmp_path, monkeypatch):
    """The config of docs/configs.md, beside a student and a teacher of the user."""
    monkeypatch.chdir(tmp_path)
    stock = ROOT / 'configs' / 'conditional_detr' / 'conditional-detr_r18_8xb2-50e_coco.py'
    student = shrink(load(stock), tmp_path)
    student.dump('my_student.py')
    student.dump('my_teacher.py')
    Path(save_random_teacher('my_teacher.py', tmp_path)).rename('my_teacher.pth')
    Path('mine.py').write_text(own_config())

    model, optim_wrapper = build_from_config(load(tmp_path / 'mine.py'))
    log_vars, _ = step(model, optim_wrapper, synthetic_batch())
    assert torch.isfinite(log_vars['loss'])
    assert {'loss_cls', 'loss_aligned_kd.cls'} <= set(log_vars)

"""The student's graph in onnxruntime, by value, and the table in docs/export.md."""

from pathlib import Path

import pytest

from tests.support_table import FAMILIES
from tests.tiny_detectors import build, tiny, tiny_config
from tests.trainings import load_tool

PAGE = Path(__file__).parents[2] / 'docs' / 'export.md'
NOT_EXPORTED = ('ddq',)


@pytest.fixture(scope='module')
def tool():
    return load_tool('export_onnx')


@pytest.mark.parametrize('family', [name for name in FAMILIES if name not in NOT_EXPORTED])
def test_equals_pytorch(tool, family, tmp_path):
    multi_scale = family.startswith(('deformable', 'dino'))
    detector = tiny(family, strides=(16, 32) if multi_scale else None)
    difference = tool.export(detector, (64, 96), str(tmp_path / 'student.onnx'))
    assert difference < 1e-4


def test_distilled_student(tool, trained, tmp_path, capsys, monkeypatch):
    path = tmp_path / 'student.onnx'
    command = [str(trained.folder / 'whole.py'), str(trained.folder / 'whole' / 'epoch_3.pth')]
    command += ['--size', '64', '64', '--out', str(path)]
    assert tool.main(command) < 1e-4
    assert path.exists()
    assert 'onnxruntime and PyTorch agree' in capsys.readouterr().out
    before = path.read_bytes()
    monkeypatch.setattr(tool, 'TOLERANCE', 0.0)
    with pytest.raises(SystemExit, match='differs from PyTorch'):
        tool.main(command)
    assert path.read_bytes() == before


def test_a_graph_that_differs_is_not_left(tool, tmp_path):
    """The coarsest of four levels is one pixel wide: the older exporter writes NaN for its grid."""
    with pytest.raises(ValueError, match=r'differs from PyTorch by .*try a larger --size'):
        tool.export(tiny('deformable'), (64, 64), str(tmp_path / 'student.onnx'))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('channels', [1, 4])
def test_images_of_other_channels(tool, channels, tmp_path):
    config = tiny_config('detr')
    config.backbone.in_channels = channels
    assert tool.export(build(config), (64, 96), str(tmp_path / 'student.onnx')) < 1e-4


@pytest.mark.parametrize('family', NOT_EXPORTED)
def test_what_cannot_be_exported_still_cannot(tool, family, tmp_path):
    """When this fails, PyTorch or MMCV has learned it: move the row in docs/export.md."""
    with pytest.raises(RuntimeError, match='shape_type_inference'):
        tool.export(tiny(family), (64, 96), str(tmp_path / 'student.onnx'))


def test_the_table_says_so():
    rows = [
        line
        for line in PAGE.read_text().splitlines()
        if line.startswith('| ') and 'ONNX' not in line
    ]
    found = {row.split(' | ')[0].strip('| '): row.split(' | ')[1] for row in rows}
    expected = {name: 'no' if key in NOT_EXPORTED else 'yes' for key, name in FAMILIES.items()}
    assert {name: found.get(name) for name in expected} == expected

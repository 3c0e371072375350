"""tools/check.py: every broken config gets one line with the reason, a good one the whole table."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdet_detrdistill.config.load import detector_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'tests' / 'broken_configs'
GOOD = FOLDER / '_base_' / 'good.py'
BROKEN = {path.stem: path for path in sorted(FOLDER.glob('*.py'))}
OPTIONS = ('--synthetic', '--size', '96', '128', '--device', 'cpu')

spec = importlib.util.spec_from_file_location('tool_check', ROOT / 'tools' / 'check.py')
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """A folder with teacher.pth, and NAME.pth for a config that asks for one of its own."""
    folder = tmp_path_factory.mktemp('teachers')
    own = [path for name, path in BROKEN.items() if f"'{name}.pth'" in path.read_text()]
    for path in (GOOD, *own):
        config = Config.fromfile(path).model
        with DefaultScope.overwrite_default_scope('mmdet'):
            teacher = MODELS.build(detector_config(config.teacher))
        teacher.init_weights()
        meta = dict(dataset_meta=dict(classes=('cat', 'dog', 'bus')))
        state = dict(meta=meta, state_dict=teacher.state_dict())
        torch.save(state, folder / config.teacher_ckpt)
    return folder


@pytest.fixture
def run(checkpoints, monkeypatch, capsys):
    """Runs the tool in that folder; exit code, table and errors."""

    def run(path, *options):
        monkeypatch.chdir(checkpoints)
        capsys.readouterr()
        code = check.main([str(path), *OPTIONS, *options])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_there_are_more_than_ten():
    assert len(BROKEN) > 10


@pytest.mark.parametrize('name', BROKEN)
def test_broken_config_gets_one_line_with_the_reason(run, name):
    code, out, err = run(BROKEN[name])
    expected = re.match(r'# Reason: (.*)', BROKEN[name].read_text()).group(1)
    assert code == 1
    assert err.startswith('check failed: ')
    assert err.count('\n') == 1
    assert expected in err
    assert 'FITS' not in out
    assert 'Traceback' not in out
    assert out.count('\n') < 25


def test_missing_config_and_unparsable_override(run, tmp_path):
    code, _, err = run('nowhere.py')
    assert code == 1
    assert 'config nowhere.py does not exist' in err
    (tmp_path / 'broken.py').write_text('model = dict(type=')
    code, _, err = run(tmp_path / 'broken.py')
    assert code == 1
    assert err.count('\n') == 1


def rows_of(out):
    pairs = (re.split(r'\s{2,}', line, maxsplit=1) for line in out.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def test_good_config_gets_the_whole_table(run):
    code, out, err = run(GOOD)
    assert (code, err) == (0, '')
    assert out.endswith('FITS\n')
    rows = rows_of(out)
    assert re.match(r'3\.\d+.*, \d\.\d+', rows['python, torch'])
    assert 'fits together' in rows['OpenMMLab']
    assert rows['detector'] == 'DeformableDETR / DeformableDETR'
    assert rows['backbone'] == 'ResNet / ResNet'
    assert rows['width'] == '64 / 64'
    assert rows['queries'] == '12 / 12'
    assert rows['class head'] == 'sigmoid / sigmoid'
    assert rows['classes'] == '3 / 3'
    assert rows['classes by name'] == 'class names agree with the dataset'
    assert rows['encoder layers'] == '1 / 1'
    assert rows['decoder stages'] == '2 / 2: S1 <- [1], S2 <- [2]'
    strides = '[8, 16, 32, 64]'
    assert rows['feature strides'] == f'{strides} / {strides}, distilled: {strides}'
    assert rows['loss_assign_kd injects'] == 'TeacherQueryInjection'
    assert rows['batch'] == 'synthetic'
    for name in ('task', 'loss_logits_kd', 'loss_feature_kd', 'loss_assign_kd'):
        value, norm = (float(number) for number in rows[name].split(', ')[:2])
        assert value > 0
        assert norm > 0
    assert re.search(r'sane \(|try loss_weight=', rows['loss_logits_kd'])
    for name in ('loss_logits_kd.neg_bbox', 'loss_assign_kd.iou', 'logits_kd.entropy'):
        assert float(rows[name]) > 0
    for name in ('parameters (M)', 'forward GFLOPs per image'):
        assert all(float(number) > 0 for number in rows[name].split(' / '))
    assert rows['seconds forward + backward']
    assert rows['peak memory'].endswith('resident, whole process')
    shares = re.findall(r'(\w+) (\d+)%', rows['a step is made of'])
    assert [name for name, _ in shares] == ['teacher', 'student', 'injected', 'matching']
    assert sum(int(share) for _, share in shares) == pytest.approx(100, abs=2)


def test_names_the_rule_and_why_the_others_were_refused(run):
    """A DAB-DETR student of a Deformable DETR teacher takes boxes; widths and layers differ."""
    code, out, err = run(FOLDER / '_base_' / 'cross_family.py')
    assert (code, err) == (0, '')
    rows = rows_of(out)
    assert rows['loss_assign_kd injects'] == (
        "TeacherBoxInjection, since TeacherQueryInjection: the teacher's queries are of kind "
        "'point', not 'anchor'"
    )
    assert rows['decoder stages'] == '1 / 2: S1 <- [1, 2]'
    assert float(rows['learned between them (M)']) == pytest.approx(257 * 64 / 1e6, abs=1e-3)


def test_random_teacher_needs_no_checkpoint(run):
    code, out, _ = run(BROKEN['checkpoint_missing'], '--random-teacher')
    assert code == 0
    assert 'task:' not in out
    assert 'no verdict with a random teacher' in out
    assert rows_of(out)['classes by name'] == 'no class names to compare; their number agrees'


def test_class_map_by_name(run):
    code, out, err = run(BROKEN['other_class_order'], '--cfg-options', 'model.class_map=auto')
    assert (code, err) == (0, '')
    expected = 'classes by name: dog <- dog, cat <- cat, bus <- bus'
    assert rows_of(out)['classes by name'] == expected


def test_exit_code_of_the_command(checkpoints):
    """As a user runs it; nothing but the reason on stderr."""
    command = [sys.executable, str(ROOT / 'tools' / 'check.py')]
    result = subprocess.run(
        [*command, 'nowhere.py'], capture_output=True, text=True, cwd=checkpoints, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith('check failed: config nowhere.py does not exist')
    assert result.stderr.count('\n') == 1


small = sorted(ROOT.glob('configs/*/detrdistill_*_shapes.py'))
small += sorted(ROOT.glob('configs/*/detrdistill_*_coco-format.py'))


@pytest.mark.parametrize('path', small, ids=lambda path: path.stem)
def test_shipped_config_without_data_and_teacher(run, path):
    """The data of a `coco_format` config need not be there yet; a step with every loss fits."""
    code, out, err = run(path, '--random-teacher')
    assert (code, err) == (0, '')
    rows = rows_of(out)
    assert rows['batch'] == 'synthetic'
    assert 'loss_aligned_kd' in rows


def test_pretrained_weights_are_named_and_not_fetched(run, monkeypatch):
    """A stock student: its backbone's weights would come from another host."""
    asked = []
    monkeypatch.setattr('torch.hub.load_state_dict_from_url', lambda *a, **k: asked.append(a))
    name = 'detrdistill_conditional-detr_mobilenetv2-from-r101_8xb2-50e_coco.py'
    code, out, err = run(ROOT / 'configs' / 'conditional_detr' / name, '--random-teacher')
    assert (code, err, asked) == (0, '', [])
    expected = 'open-mmlab://mmdet/mobilenet_v2 (not loaded for this check)'
    assert rows_of(out)['student starts from'] == expected

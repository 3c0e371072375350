"""What each row of tools/ablation.py changes, and what the table says."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmdet_detrdistill import losses

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def tools_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))


@pytest.fixture
def ablation():
    return importlib.import_module('ablation')


def loss_options(ablation, row):
    """Options of each loss that is on, by loss, with a row's overrides of the distilled config."""
    path = ROOT / 'configs' / ablation.PAIRS['quickstart'].distilled
    config = importlib.import_module('training_runs').read_config(
        str(path), ablation.all_rows()[row]
    )
    found = {}
    for name, own in config.model.distiller.distill_losses.items():
        if own is not None:
            given = {key: value for key, value in own.items() if key != 'type'}
            loss = getattr(losses, own.type)(**given)
            found[name[len('loss_') : -len('_kd')]] = vars(loss.options)
    return found


@pytest.mark.parametrize('loss', ['logits', 'feature', 'assign', 'aligned'])
def test_one_loss_alone(ablation, loss):
    assert list(loss_options(ablation, loss)) == [loss]


def test_all_and_released_are_the_presets(ablation):
    for row, preset in (('all', 'paper'), ('released', 'released')):
        expected = {
            loss: vars(getattr(losses, name)(preset=preset).options)
            for loss, name in ablation.LOSSES.items()
        }
        assert loss_options(ablation, row) == expected


def test_a_row_for_each_option_in_which_the_presets_differ(ablation):
    paper, released = loss_options(ablation, 'all'), loss_options(ablation, 'released')
    differing = {
        f'{loss}: {name}={value}': (loss, name, value)
        for loss, options in released.items()
        for name, value in options.items()
        if paper[loss][name] != value
    }
    assert len(differing) == 10
    assert {row for row in ablation.all_rows() if ':' in row} == set(differing)
    for row, (loss, name, value) in differing.items():
        assert loss_options(ablation, row) == {**paper, loss: {**paper[loss], name: value}}, row


def finals(*scores):
    return [dict(mAP=score, AP50=2 * score) for score in scores]


def test_table_by_hand(ablation):
    """Alone 10, 12, 14: mean 12, deviation 2. All 13, 14, 18: 15 ± 2.6; gains 3, 2, 4: 3 ± 1."""
    report = dict(rows=dict(alone=finals(10.0, 12.0, 14.0), all=finals(13.0, 14.0, 18.0)))
    assert ablation.table(report).splitlines()[2:] == [
        '| alone | 12.0 ± 2.0 | 24.0 ± 4.0 |  |  |',
        '| all | 15.0 ± 2.6 | 30.0 ± 5.3 | +3.0 ± 1.0 | +3.0, +2.0, +4.0 |',
    ]


def test_unknown_row_is_refused(ablation, tmp_path):
    with pytest.raises(SystemExit, match=r"unknown rows \['none'\]; there are \['alone', "):
        ablation.main(['--rows', 'none', '--work-dir', str(tmp_path)])


def test_runs_and_report(ablation, tmp_path, monkeypatch):
    """Seeds in turn; `alone` is the student's config; the others get this run's teacher."""
    trained = []

    def stand_in(runs, say):
        for run in runs:
            trained.append(run)
            folder = Path(run.folder) / 'stamp' / 'vis_data'
            folder.mkdir(parents=True)
            score = 0.1 * len(trained)
            names = ('', '_50', '_75', '_s', '_m', '_l')
            line = {**{f'coco/bbox_mAP{name}': score for name in names}, 'step': run.epochs}
            (folder / 'scalars.json').write_text(json.dumps(line))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablation, 'train_all', stand_in)
    ablation.main(['--fast', '--seeds', '2', '--rows', 'alone', 'feature'])
    names = ['teacher', 'alone, seed 0', 'feature, seed 0', 'alone, seed 1', 'feature, seed 1']
    assert [run.name for run in trained] == names
    teacher, alone, feature = trained[:3]
    assert Path(alone.config).name == Path(ablation.PAIRS['quickstart'].student).name
    assert f'model.teacher_ckpt={teacher.checkpoint}' in feature.options
    assert not any('model.' in option for option in alone.options)
    assert 'randomness.seed=1' in trained[4].options
    report = json.loads(Path('work_dirs/ablation-fast/quickstart/ablation.json').read_text())
    scores = {row: [run['mAP'] for run in runs] for row, runs in report['rows'].items()}
    assert scores == {'alone': [20.0, 40.0], 'feature': [30.0, 50.0]}
    assert report['teacher']['mAP'] == 10.0


def first_task_loss(folder):
    """The student's own `loss_cls` at the first logged step."""
    (path,) = folder.glob('*/vis_data/scalars.json')
    line = json.loads(path.read_text().splitlines()[0])
    return line['loss_cls'], 'loss_logits_kd.cls' in line


def test_fast_run(tmp_path):
    """Real trainings of the pair of two families; a second call reuses them and prints the same."""
    command = [sys.executable, str(ROOT / 'tools' / 'ablation.py'), '--fast']
    command += ['--pair', 'cross_family', '--rows', 'alone', 'all']
    outputs = [
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        for _ in range(2)
    ]
    assert all(done.returncode == 0 for done in outputs), outputs[0].stdout + outputs[0].stderr
    tables = [re.search(r'\| row [\s\S]*', done.stdout).group(0) for done in outputs]
    assert tables[0] == tables[1]
    assert 'training in' not in outputs[1].stdout
    folder = tmp_path / 'work_dirs' / 'ablation-fast' / 'cross_family'
    (alone,), (distilled,) = (folder.glob(f'{row}-seed0-*') for row in ('alone', 'all'))
    (own, _), (other, has_terms) = first_task_loss(alone), first_task_loss(distilled)
    assert has_terms
    assert own == pytest.approx(other, rel=0.05)  # the same weights and batches, two steps on

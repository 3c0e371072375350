"""Reuse and resumption with stand-ins for the trainings; a real start of both students."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
STUDENT = 'configs/quickstart/deformable-detr_student_1xb8-6e_shapes.py'


@pytest.fixture(autouse=True)
def tools_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.chdir(ROOT)


def tool(name):
    return importlib.import_module(name)


def make_run(root, options=(), **changes):
    options = ['train_cfg.max_epochs=3', *options]
    given = dict(name='n', slug='s', config=STUDENT, options=options, root=str(root))
    given.update(changes)
    return tool('training_runs').Run(**given)


def test_folder_depends_on_what_decides_the_result(tmp_path):
    run = make_run(tmp_path)
    assert run.epochs == 3
    assert run.folder == make_run(tmp_path).folder
    others = [
        make_run(tmp_path, ['randomness.seed=1']),
        make_run(tmp_path, ['optim_wrapper.optimizer.lr=0.5']),
        make_run(tmp_path, inputs=('other data',)),
    ]
    assert len({run.folder, *(other.folder for other in others)}) == 4


def write_log(folder, stamp, scores):
    path = Path(folder) / stamp / 'vis_data'
    path.mkdir(parents=True)
    (Path(folder) / 'config.py').write_text('model = dict(type="A")')
    lines = [dict(loss=1.0, step=1)]
    names = ('', '_50', '_75', '_s', '_m', '_l')
    for epoch, score in scores.items():
        lines.append({**{f'coco/bbox_mAP{n}': score for n in names}, 'step': epoch, 'time': 1})
    (path / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))


def test_progress_reads_the_logs(tmp_path):
    run = make_run(tmp_path)
    assert run.progress() == 'n: starting'
    write_log(run.folder, '20240101_000000', {1: 0.184})
    Path(run.log).write_text(
        '11/23 - mmengine - INFO - Epoch(val) [1][25/25]    coco/bbox_mAP: 0.1840  coco/x: 0\n'
        '11/23 - mmengine - INFO - Epoch(train)  [2][ 75/250]  base_lr: 1.0e-03 lr: 1.0e-03  '
        'eta: 1 day, 0:04:16  time: 0.1171  data_time: 0.0070\n'
    )
    assert run.progress() == 'n: epoch 2/3  30 %, 1 day, 0:04:16 left, mAP 18.4'
    losses = {'loss_logits_kd.cls': 2.0, 'logits_kd.entropy': 9.0, 'loss_feature_kd': 1.0}
    with open(Path(run.folder) / '20240101_000000/vis_data/scalars.json', 'a') as file:  # 3 of 8
        file.write('\n' + json.dumps(dict(loss=8.0, loss_cls=5.0, step=350, epoch=2, **losses)))
    assert run.progress().endswith('left, mAP 18.4, distillation 38 % of the loss')


STAND_IN = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index('--work-dir') + 1])
names = ('', '_50', '_75', '_s', '_m', '_l')
logs = folder / 'stamp' / 'vis_data'
logs.mkdir(parents=True, exist_ok=True)
line = {**{f'coco/bbox_mAP{n}': 0.25 for n in names}, 'step': 3, 'time': 1}
(logs / 'scalars.json').write_text(json.dumps(line))
(folder / 'calls').open('a').write(' '.join(sys.argv) + '\\n')
if (folder / 'fail').exists():
    sys.exit('no such luck')
(folder / 'config.py').write_text('model = dict(type="A")')
(folder / 'epoch_3.pth').write_text('')
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    (tmp_path / 'train.py').write_text(STAND_IN)
    monkeypatch.setattr(tool('training_runs'), 'TOOLS', str(tmp_path))
    return tmp_path


def test_trains_once_and_reuses(stand_in):
    train_all = tool('training_runs').train_all
    runs = [make_run(stand_in, slug=slug, name=slug) for slug in 'ab']
    said = []
    train_all(runs, said.append)
    assert all(run.finished for run in runs)
    assert sum('done in' in line for line in said) == 2
    said.clear()
    train_all(runs, said.append)
    assert all('reused' in line for line in said) and len(said) == 2
    assert len((Path(runs[0].folder) / 'calls').read_text().splitlines()) == 1


@pytest.mark.parametrize('plan', ['SHAPES', 'COCO_FORMAT'])
@pytest.mark.parametrize('role', ['teacher', 'student', 'distilled'])
def test_the_long_form_stretches_the_schedule(plan, role, tmp_path):
    path = ROOT / 'configs' / getattr(getattr(tool('quickstart'), plan), role)
    run = make_run(tmp_path, config=str(path), options=tool('quickstart').lengthened(str(path)))
    before, after = Config.fromfile(path), Config.fromfile(path)
    after.merge_from_dict(tool('training_runs').read_words(run.options))
    assert run.epochs == after.param_scheduler[1].end == 3 * before.train_cfg.max_epochs
    steps = [cfg.param_scheduler[1].get('milestones', []) for cfg in (before, after)]
    assert [3 * step for step in steps[0]] == steps[1]


def test_an_interrupted_evaluation_is_made_up_for(stand_in, monkeypatch):
    """The stand-in's log has the scores of epoch 3, its last."""
    run = make_run(stand_in)
    tool('training_runs').train_all([run], lambda text: None)
    found = tool('quickstart').finished(run)
    assert [(point['epoch'], point['mAP']) for point in found.curve] == [(3, 25.0)]
    assert found.minutes >= 0 and found.checkpoint == run.checkpoint
    evaluated = []
    monkeypatch.setattr(tool('run_report.measure'), 'evaluate', evaluated.append)
    run.epochs = 4
    assert evaluated == [tool('quickstart').finished(run)]


def test_a_lost_checkpoint_is_trained_again(stand_in):
    run = make_run(stand_in)
    tool('training_runs').train_all([run], lambda text: None)
    Path(run.checkpoint).unlink()
    assert not run.finished


def test_resumes_what_was_interrupted(stand_in):
    run = make_run(stand_in)
    assert '--resume' not in run.command
    Path(run.folder).mkdir()
    (Path(run.folder) / 'last_checkpoint').write_text('')
    said = []
    tool('training_runs').train_all([run], said.append)
    assert 'resuming' in said[0] and run.finished
    assert '--resume' in (Path(run.folder) / 'calls').read_text()


def test_failure_shows_the_end_of_the_log(stand_in):
    run = make_run(stand_in)
    Path(run.folder).mkdir()
    (Path(run.folder) / 'fail').write_text('')
    error = tool('training_runs').RunError
    with pytest.raises(error, match=r'(?s)n stopped with code 1.*no such luck'):
        tool('training_runs').train_all([run], lambda text: None)
    assert not run.finished


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--seeds', '0'], '--seeds must be >= 1'),
        (['--cfg-options', 'train_ann'], 'takes KEY=VALUE, got train_ann'),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool('quickstart').main(arguments)
    assert message in capsys.readouterr().err


def test_missing_data_names_the_options(tmp_path):
    with pytest.raises(SystemExit, match=r'instances_train.json does not exist.*train_ann'):
        tool('quickstart').main(['--data-root', str(tmp_path), '--work-dir', str(tmp_path / 'w')])


def test_plans_name_configs_of_equal_schedule():
    """The two students differ in nothing but the wrapper; a plan's files exist."""
    from mmengine.config import Config

    quickstart = tool('quickstart')
    for plan in (quickstart.SHAPES, quickstart.COCO_FORMAT):
        teacher, student, distilled = (
            Config.fromfile(ROOT / 'configs' / path)
            for path in (plan.teacher, plan.student, plan.distilled)
        )
        assert distilled.model.architecture == student.model
        assert Path(distilled.model.teacher).name == Path(plan.teacher).name
        assert distilled.model.teacher_ckpt.endswith(f'epoch_{teacher.train_cfg.max_epochs}.pth')
        for key in (
            'train_dataloader',
            'optim_wrapper',
            'param_scheduler',
            'train_cfg',
            'randomness',
        ):
            assert distilled[key] == student[key], key


def start_of_training(config, options, work_dir):
    """Weights before the first step, and the first two batches."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    from mmdet_detrdistill.config.coco_format import resolve_coco_format

    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    resolve_coco_format(cfg)
    cfg.work_dir = str(work_dir)
    runner = Runner.from_cfg(cfg)
    runner._init_model_weights()
    loader = runner.build_dataloader(cfg.train_dataloader, seed=runner.seed)
    batches = [next(iterator) for iterator in [iter(loader)] for _ in range(2)]
    model = runner.model
    student = getattr(model, 'architecture', model)
    return {k: v.clone() for k, v in student.state_dict().items()}, batches


def test_both_students_start_alike(tmp_path):
    """Same seed: equal weights, equal images in equal order, flipped alike; another seed not."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    quickstart = tool('quickstart')
    shapes = tmp_path / 'shapes'
    tool('make_shapes').make_shapes(str(shapes), train=16, val=2)
    paths = {k: str(ROOT / 'configs' / getattr(quickstart.SHAPES, k)) for k in quickstart.LABELS}
    torch.manual_seed(5)
    teacher = MODELS.build(Config.fromfile(paths['teacher']).model)
    teacher.init_weights()
    torch.save(dict(state_dict=teacher.state_dict(), meta={}), tmp_path / 'teacher.pth')
    options = {'data_root': str(shapes), 'randomness.seed': 3}
    ckpt = {'model.teacher_ckpt': str(tmp_path / 'teacher.pth')}
    alone = start_of_training(paths['student'], options, tmp_path / 'a')
    distilled = start_of_training(paths['distilled'], {**options, **ckpt}, tmp_path / 'b')
    torch.testing.assert_close(distilled[0], alone[0], rtol=0, atol=0)
    for one, other in zip(alone[1], distilled[1]):
        for a, b in zip(one['inputs'], other['inputs']):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    other = start_of_training(paths['student'], {**options, 'randomness.seed': 4}, tmp_path / 'c')
    assert any(not torch.equal(other[0][k], alone[0][k]) for k in alone[0])

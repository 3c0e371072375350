"""The study: its lines, what is left to train, tables and figures made from lines."""

import dataclasses
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from mmengine.config import DictAction

from mmdet_detrdistill import losses
from mmdet_detrdistill.check.model import build
from tests.benchmarks import efficientnet_stand_in
from tests.stepping import build_from_config, load, save_random_teacher, step, synthetic_batch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'benchmarks'), str(ROOT / 'tools')]

import make_shapes  # noqa: E402
import plan  # noqa: E402
import study  # noqa: E402
import study_results  # noqa: E402
from study import Job  # noqa: E402

CELL = 'shapes-deformable'


def line(row='alone', seed=0, curve=((3, 10.0), (18, 30.0), (24, 30.6)), **more):
    content = {
        'cell': CELL,
        'row': row,
        'seed': seed,
        'version': plan.CELLS[CELL].version,
        'commit': 'abc1234',
        'date': '2026-01-02 03:04 UTC',
        'versions': {'torch': '2', 'mmdet': '3', 'mmcv': '2'},
        'processor': 'one',
        'cpu_minutes': 5.0,
        'curve': [list(point) for point in curve],
        'final': {'mAP': curve[-1][1]},
    }
    return {**content, **more}


def lines_of(*entries):
    return {Job(entry['cell'], entry['row'], entry['seed']): entry for entry in entries}


def full(gain=2.0):
    """A teacher, and three seeds of alone and all."""
    entries = [line('teacher', curve=((24, 40.0),))]
    for seed in (0, 1, 2):
        curve = [(3, 10.0), (18, 30.0 + seed), (24, 30.6 + seed)]
        entries.append(line('alone', seed, curve))
        entries.append(line('all', seed, [(epoch, value + gain) for epoch, value in curve]))
    return lines_of(*entries)


def test_docs_say_what_the_lines_say():
    assert study_results.stale(study.RESULTS) == []


def test_lines_of_the_repository_are_complete():
    for job, entry in study.valid_lines(study.RESULTS).items():
        cell = plan.CELLS[job.cell]
        assert entry['config'] == cell.config(job.row) and (ROOT / entry['config']).is_file()
        assert entry['overrides'] == cell.overrides(job.row)
        assert entry['command'].startswith('python tools/train.py benchmarks/configs/')
        assert entry['curve'][-1][1] == entry['final']['mAP']
        assert 'changes' not in entry['commit'] and entry['cpu_minutes'] > 0
        assert job.row in ('teacher', 'alone') or entry['teacher']['mAP'] > 0
        assert not cell.backbone or entry['backbone']['mAP'] > 0
    text = Path(study.RESULTS).read_text() if os.path.isfile(study.RESULTS) else ''
    assert (
        str(ROOT) not in text and '/home' not in text and '/work' not in text.replace('work_d', '')
    )


def test_every_job_has_a_config_and_comes_once():
    jobs = list(plan.jobs())
    assert len(jobs) == len(set(jobs))
    for cell, row, _ in jobs:
        assert (ROOT / plan.CELLS[cell].config(row)).is_file()
    for name, cell in plan.CELLS.items():
        owner = cell.teacher or name
        position = jobs.index((owner, 'teacher', plan.CELLS[owner].teacher_seed))
        assert position <= min(n for n, job in enumerate(jobs) if job[0] == name)
        assert not cell.teacher or (name, 'teacher', 0) not in jobs
        if cell.backbone:
            assert jobs.index((cell.backbone, 'alone', 0)) < position


def test_newest_line_of_the_cell_s_version_counts(tmp_path):
    path = tmp_path / 'lines.jsonl'
    for entry in (line(version=0), line(cpu_minutes=1.0), line(cpu_minutes=2.0), line(seed=1)):
        study.append(str(path), entry)
    found = study.valid_lines(str(path))
    assert list(found) == [Job(CELL, 'alone', 0), Job(CELL, 'alone', 1)]
    assert found[Job(CELL, 'alone', 0)]['cpu_minutes'] == 2.0


def test_gains_by_hand():
    found = full(gain=2.0)
    found[Job(CELL, 'all', 2)]['final']['mAP'] += 1
    assert study_results.gains(found, CELL, 'all') == {0: 2.0, 1: 2.0, 2: 3.0}
    assert '+2.3 ± 0.6' in study_results.summary(found)
    assert study_results.last_quarter(found[Job(CELL, 'alone', 0)]) == 0.6


def test_an_option_is_compared_with_its_base():
    found = full(gain=2.0)
    for seed, change in enumerate((0.5, 0.7, -0.3)):
        score = found[Job(CELL, 'all', seed)]['final']['mAP'] + change
        found[Job(CELL, 'half', seed)] = line('half', seed, [[24, score]])
    rows = study_results.options(found).splitlines()
    assert f'| half | all | `{CELL}` | +0.3 ± 0.5 | +0.5, +0.7, -0.3 |' in rows
    assert all(plan.ROWS[row.base].title for row in plan.ROWS.values() if row.base)


def test_two_recipes_side_by_side():
    found = {}
    for seed, change in enumerate((0.5, 0.7, -0.3)):
        found[Job(CELL, 'aligned', seed)] = line('aligned', seed, [[24, 40.0]])
        found[Job(CELL, 'released', seed)] = line('released', seed, [[24, 40.0 + change]])
    rows = study_results.recipes(found).splitlines()
    both = f'| `{CELL}` | 40.0 ± 0.0 | 40.3 ± 0.5 | +0.3 ± 0.5 | +0.5, +0.7, -0.3 |'
    assert both in rows
    assert not any('`shapes-dino`' in row for row in rows)  # not planned with both


def test_a_mean_that_rounds_to_zero_has_no_minus():
    assert study_results.mean_text([0.2, 0.1, -0.4], '+') == '+0.0 ± 0.3'


def test_one_seed_is_no_result():
    found = full()
    for row in ('alone', 'all'):
        del found[Job(CELL, row, 2)]
    assert '±' not in study_results.summary(found) + study_results.rows_of(found, CELL)
    assert '+2.0, +2.0, -' in study_results.rows_of(found, CELL)
    assert CELL not in study_results.summary(found, converged=True)
    assert study_results.figure(found, CELL) == ''


def test_readmes_show_what_is_converged():
    found = full()
    assert CELL in study_results.summary(found, converged=True)
    found[Job(CELL, 'alone', 1)]['curve'][1][1] -= 3.0
    assert CELL not in study_results.summary(found, converged=True)
    assert CELL in study_results.summary(found)


def test_time_to_accuracy_is_interpolated():
    curve = [(3, 10.0), (6, 20.0), (24, 35.0)]
    assert study_results.epochs_to(curve, 15.0) == 4.5
    assert study_results.epochs_to(curve, 10.0) == 3
    assert study_results.epochs_to(curve, 40.0) is None


def test_a_teacher_may_be_that_of_another_cell(monkeypatch):
    monkeypatch.setitem(plan.CELLS, 'other', plan.CELLS[CELL]._replace(teacher=CELL))
    found = full()
    for job, entry in full(gain=3.0).items():
        if job.row != 'teacher':
            found[Job('other', job.row, job.seed)] = {**entry, 'cell': 'other'}
    monkeypatch.setattr(study_results, 'jobs', lambda: [(*job,) for job in found])
    rows = study_results.summary(found).splitlines()[2:]
    assert [row.split(' | ')[2] for row in rows] == ['40.0', '40.0']
    assert 'teacher 40.0' in study_results.figure(found, 'other')
    assert study_results.speed(found).count('| 5.0 |') == 2


def test_speed_by_hand():
    """At epoch 6 of 24 the distilled student has what alone ends with: a quarter."""
    found = full()
    for seed in (0, 1, 2):
        found[Job(CELL, 'all', seed)]['curve'] = [[3, 20.0], [6, 30.6 + seed], [24, 40.0]]
    row = study_results.speed(found).splitlines()[2]
    assert row == f'| `{CELL}` | paper | 24 | 6.0 ± 0.0 | 5.0 ± 0.0 | 1.2 ± 0.0 | 5.0 |'
    found[Job(CELL, 'all', 1)]['curve'] = [[24, 20.0]]
    assert 'not reached | 5.0' in study_results.speed(found)
    del found[Job(CELL, 'all', 1)]
    assert 'Not measured' in study_results.speed(found)


def test_recommended_losses_come_first():
    found = full(gain=2.0)
    for seed in (0, 1, 2):
        found[Job(CELL, 'aligned', seed)] = line('aligned', seed, [[12, 20.0], [24, 35.0]])
    text = study_results.summary(found, converged=True)
    rows = [row.split(' | ')[:2] for row in text.splitlines()]
    assert rows[2:] == [[f'| `{CELL}`', losses] for losses in ('aligned', 'paper')]
    assert 'distilled 35.0' in study_results.figure(found, CELL)


def test_figure_is_xml_with_every_seed():
    from xml.etree import ElementTree

    drawing = study_results.figure(full(), CELL)
    classes = [
        node.get('class') for node in ElementTree.fromstring(drawing).iter() if node.get('d')
    ]
    assert classes.count('alone seed') == classes.count('distilled seed') == 3
    assert {'teacher', 'alone', 'distilled'} <= set(classes)


def test_page_without_a_marker_is_refused():
    with pytest.raises(ValueError, match='gains'):
        study_results.fill('<!-- provenance: begin --><!-- provenance: end -->', {'gains': ''})


def test_methods_are_rows_of_the_plan():
    planned = {row for _, row, _ in plan.jobs()}
    for _, name, row, base, _ in study_results.METHODS:
        assert {row, base} <= planned, name
        assert base in (plan.ROWS[row].base, 'alone', 'aligned'), name


def test_curve_of_a_resumed_training_is_joined(tmp_path):
    def entry(epoch, value):
        scores = dict.fromkeys(study.METRICS.values(), value / 100)
        return json.dumps({**scores, 'step': epoch}) + '\n'

    for start, epochs in (('1', (3, 6)), ('2', (6, 9))):
        folder = tmp_path / start / 'vis_data'
        folder.mkdir(parents=True)
        text = ''.join(entry(epoch, epoch + int(start)) for epoch in epochs)
        (folder / 'scalars.json').write_text('{"loss": 1, "step": 1}\n' + text)
    curve = study.read_curve(str(tmp_path))
    assert [(point['epoch'], point['mAP']) for point in curve] == [(3, 4.0), (6, 8.0), (9, 11.0)]


def test_a_killed_attempt_counts_until_its_last_checkpoint(tmp_path, monkeypatch):
    """One killed without a checkpoint, one with, and one that is killed at once."""
    folder = str(tmp_path)
    (tmp_path / 'last_checkpoint').touch()
    os.utime(tmp_path / 'last_checkpoint', (1000, 1000))
    study.write_attempts(
        folder, [{'commit': 'aaa', 'began': 2e9}, {'commit': 'bbb', 'began': 1000 - 150}]
    )

    def killed(*words, **more):
        assert [a['commit'] for a in study.attempts(folder)] == ['aaa', 'bbb', 'ccc']
        raise MemoryError

    monkeypatch.setattr(study, 'commit', lambda: 'ccc')
    monkeypatch.setattr(study.subprocess, 'Popen', killed)
    with pytest.raises(MemoryError):
        study.train('config.py', [], folder)
    assert [attempt['cpu_minutes'] for attempt in study.attempts(folder)] == [0, 2.5, 0]


def test_folder_is_for_one_process(tmp_path):
    with study.locked(str(tmp_path)) as first, study.locked(str(tmp_path)) as second:
        assert first and not second


def test_a_second_process_passes_by_what_the_first_trains(tmp_path, monkeypatch):
    monkeypatch.delattr(study.time, 'sleep')  # so that waiting fails
    made = study.Study(str(tmp_path / 'study.jsonl'), str(tmp_path))
    for row in ('teacher', 'alone'):
        job = Job(CELL, row, 0)
        with study.locked(made.folder(job)):
            made.do(job)
    assert not study.valid_lines(made.results)


def test_two_processes_that_start_at_once_make_the_data_once(tmp_path, monkeypatch):
    monkeypatch.setattr(study, 'ROOT', str(tmp_path))
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    cell = plan.CELLS[CELL]._replace(data='tiny', shapes=(('--train', 30), ('--val', 4)))
    with ThreadPoolExecutor() as threads:
        roots = set(threads.map(study.Study().data_root, [cell] * 2))
    assert roots == {str(tmp_path / 'data' / 'tiny')}
    assert len(list((tmp_path / 'data' / 'tiny' / 'train').iterdir())) == 30


def distilled(cell, row, options=()):
    """Resolved config of a cell's row."""
    folder = os.path.join(ROOT, plan.CELLS[cell].config(row))
    config = load(folder)
    words = (word.split('=', 1) for word in options or plan.CELLS[cell].overrides(row))
    config.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in words})
    return config


def loss_options(row, cell=CELL):
    """Options of each loss that is on, by loss, in a row of a cell."""
    found = {}
    for name, own in distilled(cell, row).model.distiller.distill_losses.items():
        if own is not None:
            given = {key: value for key, value in own.items() if key != 'type'}
            loss = getattr(losses, own.type)(**given)
            found[name[len('loss_') : -len('_kd')]] = dataclasses.asdict(loss.options)
    return found


@pytest.mark.parametrize('loss', ['logits', 'feature', 'assign', 'aligned'])
def test_one_loss_alone(loss):
    assert list(loss_options(loss)) == [loss]


@pytest.mark.parametrize(
    ('row', 'loss', 'name', 'value'),
    [
        ('hard negatives', 'logits', 'negatives', 'hard'),
        ('object masks', 'feature', 'mask', 'ground_truth'),
    ],
)
def test_one_option_differs(row, loss, name, value):
    paper = loss_options('all')
    assert paper[loss][name] != value
    assert loss_options(row) == {**paper, loss: {**paper[loss], name: value}}


@pytest.mark.parametrize('row', ['random boxes', 'object boxes'])
def test_rows_of_shared_boxes_have_the_aligned_loss_alone(row):
    assert list(loss_options(row, 'shapes-dab')) == ['aligned']
    own = distilled('shapes-dab', row).model.distiller.distill_losses.loss_aligned_kd
    rules = {'random boxes': 'RandomBoxInjection', 'object boxes': 'GroundTruthBoxInjection'}
    assert [rule.type for rule in own.injection] == ['auto', rules[row]]


@pytest.mark.slow
def test_the_losses_of_every_row_serve_the_pair(monkeypatch):
    """On shapes; the photographs' backbone is of another package."""
    monkeypatch.chdir(ROOT)
    for cell, row, seed in plan.jobs():
        config = distilled(cell, row) if seed == 0 and 'shapes' in cell else {}
        if 'teacher' in config.get('model', ()):
            assert build(config, random_teacher=True).distiller.pair_losses


def test_every_row_has_a_config():
    for cell, row, seed in plan.jobs():
        if seed == 0:
            assert os.path.isfile(os.path.join(ROOT, plan.CELLS[cell].config(row))), (cell, row)
    hooks = [hook.type for hook in distilled(CELL, 'adaptive').custom_hooks]
    assert hooks == ['TeacherCheckHook', 'AdaptiveLossWeightHook']


def test_weights_and_end():
    for row, weight in (('half', 0.5), ('double', 2.0), ('ended', 1.0)):
        found = distilled(CELL, row).model.distiller.distill_losses.values()
        assert [own.loss_weight for own in found] == [weight] * 3
        if row != 'ended':
            found = distilled(CELL, f'aligned, {row}').model.distiller.distill_losses
            on = {name: own for name, own in found.items() if own is not None}
            assert on == dict(loss_aligned_kd=dict(type='AlignedKDLoss', loss_weight=weight))
    for cell in plan.CELLS:
        if (cell, 'ended', 0) in plan.jobs():
            config = distilled(cell, 'ended')
            assert config.end == 0.75 * config.max_epochs == 0.75 * config.train_cfg.max_epochs


@pytest.mark.parametrize('cell', list(plan.CELLS))
def test_cell_fits_and_its_rows_share_data_and_schedule(cell, tmp_path, monkeypatch):
    """Student, teacher and distilled student differ in the model alone; a step trains it."""
    owner = plan.CELLS[cell].teacher or cell
    rows = ((owner, 'teacher'), (cell, 'alone'), (cell, 'all'))
    configs = [distilled(name, row).to_dict() for name, row in rows]
    for config in configs:
        for key in ('model', 'custom_imports', 'custom_hooks', 'distiller'):
            config.pop(key, None)
    assert configs[0] == configs[1] == configs[2]
    config = distilled(cell, 'all')
    efficientnet_stand_in.install(tmp_path, monkeypatch)
    config.model.teacher_ckpt = save_random_teacher(dict(cfg_path=config.model.teacher), tmp_path)
    model, optim_wrapper = build_from_config(config)
    batch = synthetic_batch(num_classes=7, sizes=((128, 160), (128, 96)))
    log_vars, _ = step(model, optim_wrapper, batch)
    assert {'loss_logits_kd.cls', 'loss_feature_kd', 'loss_assign_kd.cls'} <= set(log_vars)
    assert all(value == value for value in log_vars.values())


@pytest.mark.parametrize(
    ('cell', 'row', 'origins'),
    [
        (CELL, 'alone', []),
        (CELL, 'all', [(CELL, 'teacher')]),
        ('shapes-tenth', 'all, strong', [(CELL, 'teacher')]),
        ('bccd-dino-one-layer', 'aligned', [('bccd-dino', 'teacher')]),
        ('shapes-400-dino', 'teacher', [('shapes-400-deformable', 'teacher')]),
        ('shapes-400-dino', 'alone', [('shapes-400-deformable', 'alone')]),
        (
            'shapes-400-dino',
            'aligned',
            [('shapes-400-deformable', 'alone'), ('shapes-400-dino', 'teacher')],
        ),
    ],
)
def test_what_a_training_starts_from(cell, row, origins, monkeypatch):
    one, asked, trained = study.Study(), [], []

    def found(cell, row='teacher'):
        asked.append((cell, row))
        return f'{cell}.pth', {'mAP': 1.0}

    monkeypatch.setattr(one, 'trained', found)
    monkeypatch.setattr(one, 'train', lambda job, options, **more: trained.append((options, more)))
    one.do(Job(cell, row, 0))
    assert asked == origins
    ((options, more),) = trained
    assert len(more) == len(origins)
    assert sum('.pth' in option for option in options) == len(origins)


@pytest.mark.parametrize(
    ('cell', 'row'),
    sorted({(cell, row) for cell, row, _ in plan.jobs() if plan.CELLS[cell].backbone}),
)
def test_backbone_starts_from_trained_weights(cell, row, monkeypatch, tmp_path):
    source = plan.CELLS[plan.CELLS[cell].backbone]
    config = source.config('teacher' if row == 'teacher' else 'alone')
    weights = save_random_teacher(dict(cfg_path=str(ROOT / config)), tmp_path)
    one, options = study.Study(), []
    monkeypatch.setattr(one, 'trained', lambda *words: (weights, {}))
    monkeypatch.setattr(one, 'train', lambda job, words, **more: options.extend(words))
    one.do(Job(cell, row, 0))
    options = [option for option in options if 'teacher_ckpt' not in option]

    config = distilled(cell, row, options)
    if 'teacher' in config.model:
        config.model.teacher_ckpt = save_random_teacher(
            dict(cfg_path=config.model.teacher), tmp_path
        )
    model = build_from_config(config)[0]
    found = (model.architecture if 'teacher' in config.model else model).state_dict()
    given = torch.load(weights)['state_dict']
    backbone = [name for name in found if name.startswith('backbone.')]
    assert backbone and all(torch.equal(found[name], given[name]) for name in backbone)


@pytest.fixture
def tiny_cell(monkeypatch):
    """The cell of the shapes on a few images, for one epoch."""
    tiny = plan.CELLS[CELL]._replace(
        data='shapes-tiny',
        options=('train_cfg.max_epochs=1', 'train_cfg.val_interval=1'),
    )
    monkeypatch.setitem(plan.CELLS, CELL, tiny)


def test_trains_what_is_missing_and_goes_on(tiny_cell, tmp_path, monkeypatch):
    """Teacher, alone and all; nothing twice; a removed teacher is trained again and compared."""
    make_shapes.make_shapes(str(tmp_path / 'data'), train=8, val=4, size=64, max_objects=2)
    path = tmp_path / 'lines.jsonl'
    one = study.Study(str(path), str(tmp_path / 'work'), {'shapes-tiny': str(tmp_path / 'data')})
    for row in ('alone', 'all'):
        one.do(Job(CELL, row, 0))
    lines = study.valid_lines(str(path))
    assert [job.row for job in lines] == ['alone', 'teacher', 'all']
    for entry in lines.values():
        assert entry['attempts'] == 1 and entry['cpu_minutes'] > 0 and len(entry['curve']) == 1
        assert str(tmp_path) not in json.dumps(entry)
    assert 'teacher_ckpt=work_dirs/study/' in lines[Job(CELL, 'all', 0)]['command']
    teacher = Job(CELL, 'teacher', 0)
    assert lines[Job(CELL, 'all', 0)]['teacher']['mAP'] == lines[teacher]['final']['mAP']

    again = []

    def train(config, words, folder, deadline):
        again.append(words)
        Path(study.checkpoint(folder)).touch()
        return [{'commit': 'def5678', 'cpu_minutes': 1, 'wall_minutes': 1}]

    monkeypatch.setattr(study, 'train', train)
    one.do(Job(CELL, 'all', 0))
    assert not again
    os.remove(study.checkpoint(one.folder(teacher)))
    one.trained(CELL)
    assert len(again) == 1 and len(study.read_lines(str(path))) == 3
    study.append(str(path), {**lines[teacher], 'final': {'mAP': 50.0}})
    with pytest.raises(study.StudyError, match='version of the cell'):
        one.trained(CELL)

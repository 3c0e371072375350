"""Work directories are read by value, whatever evaluator wrote them; what is none is refused."""

import math
from pathlib import Path

import pytest

from tests import trainings
from tests.tools.work_dirs import STUDENT, metrics, tool, train_line, work_dir, write_log


def test_a_resumed_training_is_joined_and_a_repeated_one_replaced(tmp_path):
    read = tool('run_report.work_dir').read_work_dir
    folder = work_dir(tmp_path, 'run', STUDENT, [0.1, 0.2, 0.3])
    lines = [train_line(30, 3, loss_cls=9.0), metrics(0.4, 3), train_line(40, 4, loss_cls=8.0)]
    write_log(folder, '20240102_000000', lines)
    run = read(folder)
    assert [(p['epoch'], p['mAP']) for p in run.curve] == [(1, 10), (2, 20), (3, 40)]
    assert run.losses['loss_cls'] == [(10, 3.0), (20, 1.5), (30, 9.0), (40, 8.0)]
    write_log(folder, '20240103_000000', [train_line(10, 1, loss_cls=7.0), metrics(0.5, 1)])
    run = read(folder)
    assert [(p['epoch'], p['mAP']) for p in run.curve] == [(1, 50)]
    assert run.losses['loss_cls'] == [(10, 7.0)]


def test_environment_seed_checkpoint_and_instability(tmp_path):
    folder = work_dir(tmp_path, 'run', STUDENT, [0.1], seed=None)
    lines = [{'assignment/instability': 0.25, 'assignment/instability_stage1': 0.2, 'step': 2}]
    write_log(folder, '20240102_000000', lines, seed=7)
    (Path(folder) / 'epoch_2.pth').write_bytes(b'')
    (Path(folder) / 'last_checkpoint').write_text('moved/away/epoch_2.pth')
    run = tool('run_report.work_dir').read_work_dir(folder)
    assert run.seed == 7
    assert run.environment['PyTorch'] == '2.13.0+cpu'
    assert run.environment['Python'] == '3.11.7'
    assert run.instability == [(2, 0.25)]
    assert run.checkpoint == f'{folder}/epoch_2.pth'


@pytest.mark.parametrize(
    'content, message',
    [
        ({}, r'has no config \(\*\.py\)'),
        ({'a.py': 'model = dict()'}, r'has no log \(\*/vis_data/scalars\.json\)'),
        ({'a.py': 'model = (', 'x/vis_data/scalars.json': ''}, r'a\.py: SyntaxError'),
        ({'a.py': 'model = 1', 'x/vis_data/scalars.json': '{\n'}, r'line 1: not JSON'),
    ],
)
def test_no_work_directory(tmp_path, content, message):
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match=message):
        tool('report').main([str(tmp_path)])
    with pytest.raises(SystemExit, match='nowhere is not a folder'):
        tool('report').main(['nowhere'])


@pytest.mark.parametrize(
    'logged, metrics, classes',
    [
        ({'pascal_voc/mAP': 0.5, 'pascal_voc/AP50': 0.25}, dict(mAP=50, AP50=25), {}),
        ({'val/bbox_mAP_50': 0.5, 'val/bbox_AR@100': 0.125}, {'AP50': 50, 'AR@100': 12.5}, {}),
        ({'lvis/bbox_AP': 0.5, 'lvis/bbox_APr': -1.0}, dict(AP=50, APr=-100), {}),
        ({'mAP': 0.5}, dict(mAP=50), {}),
        (
            {'coco/bbox_mAP': 0.5, 'coco/a/b_precision': 0.25, 'coco/c_precision': math.nan},
            dict(mAP=50),
            {'a/b': 25},
        ),
        ({'a/mAP': 0.5, 'b/mAP': 0.25}, {'mAP': 50, 'b/mAP': 25}, {}),
        ({'coco/bbox_mAP': 0.5, 'coco/per_class': [0.1]}, dict(mAP=50), {}),
        ({'teacher.coco/bbox_mAP': 0.75, 'coco/bbox_mAP': 0.5}, dict(mAP=50), {}),
    ],
)
def test_metrics_of_any_evaluator(logged, metrics, classes):
    """VOC, another prefix, metric_items, LVIS, none, classes, two evaluators, lists, a teacher."""
    read = tool('run_report.work_dir').read_metrics
    assert read({**logged, 'time': 1.0, 'data_time': 0.5, 'step': 3}) == (metrics, classes)


def test_iterations_are_counted_where_the_training_counts_them(tmp_path):
    """MMEngine writes epoch 0 beside the evaluations of an iteration-based training."""
    folder = work_dir(tmp_path, 'run', STUDENT, [], train_cfg=dict(max_iters=300))
    first = [train_line(100, 1, loss_cls=1.0), metrics(0.1, 0)]
    write_log(
        folder, '20240102_000000', [*first, train_line(200, 1, loss_cls=1.0), metrics(0.2, 0)]
    )
    write_log(folder, '20240103_000000', [train_line(150, 1, loss_cls=1.0), metrics(0.4, 0)])
    run = tool('run_report.work_dir').read_work_dir(folder)
    assert [(p['iteration'], p['mAP']) for p in run.curve] == [(100, 10), (150, 40)]
    report = tool('run_report.page').Report([run], 'T', 'c', seconds=0)
    assert [cell.strip() for cell in report.table.splitlines()[0].split('|')[2:4]] == [
        'iterations',
        'mAP',
    ]
    epochs = work_dir(tmp_path, 'other', STUDENT, [0.1, 0.2])
    both = [run, tool('run_report.work_dir').read_work_dir(epochs)]
    report = tool('run_report.page').Report(both, 'T', 'c', seconds=0)
    report.write(str(tmp_path / 'out'))
    assert '| 2 epochs ' in report.table and '| 150 iterations ' in report.table
    charts = {path.name for path in (tmp_path / 'out' / 'charts').iterdir()}
    assert {'map.png', 'map_iterations.png'} <= charts


def test_a_training_by_iterations_with_voc_metric(tmp_path):
    """A distillation of four iterations, as MMEngine logs it."""
    data = trainings.draw_images(tmp_path / 'data')
    config = trainings.distillation(data, trainings.save_teacher(tmp_path / 'teacher.pth'))
    config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
    config.val_evaluator = config.test_evaluator = dict(type='VOCMetric', metric='mAP')
    config.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=2)
    config.log_processor = dict(by_epoch=False)
    ended = trainings.run_training(config, tmp_path / 'run')
    assert ended.code == 0, ended.output
    run = tool('run_report.work_dir').read_work_dir(str(tmp_path / 'run'))
    assert [point['iteration'] for point in run.curve] == [2, 4]
    assert set(run.final) == {'mAP', 'AP50'}
    report = tool('run_report.page').Report([run], 'T', 'c', seconds=0)
    assert '| iterations | mAP ' in report.table
    run.curve = []
    tool('run_report.measure').evaluate(run)
    assert set(run.final) == {'mAP', 'AP50'} and run.length == 4

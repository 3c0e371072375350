"""Work directories are read by value; what is none is refused."""

from pathlib import Path

import pytest

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

"""A killed and resumed training equals an uninterrupted one; what cannot be resumed is refused."""

import shutil
import signal

import pytest
import torch
from mmengine.config import Config

from mmdet_detrdistill.checkpoints.read import CheckpointError, load_checkpoint_file
from mmdet_detrdistill.checkpoints.resume import check_start, make_resumable, newest_checkpoint
from tests.pickle_bomb import Bomb
from tests.trainings import differences, in_logs, run_training


def test_resume_after_a_kill_equals_the_uninterrupted_run(trained):
    """Killed in the third epoch of four iterations, after dropout, flips and a validation.

    The schedule and MMRazor's stop hook, which ends distillation after the second epoch, go on.
    """
    folder = trained.folder / 'killed'
    assert run_training(trained.config, folder, kill_at=10).code == -signal.SIGKILL
    resumed = run_training(trained.config, folder, '--resume')
    assert resumed.code == 0, resumed.output
    assert 'resumed epoch: 2, iter: 8' in resumed.output
    assert 'Distillation has been stopped!' in resumed.output
    assert differences(trained.folder / 'whole' / 'epoch_3.pth', folder / 'epoch_3.pth') == {}
    assert sorted(path.name for path in folder.glob('epoch_*')) == ['epoch_3.pth']


def test_the_log_shows_the_factors(trained):
    """Up over two epochs of four iterations; from the third on nothing is distilled."""
    factors = in_logs(trained.folder / 'whole', 'feature_kd.factor')
    assert factors == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1]
    content = load_checkpoint_file(str(trained.folder / 'whole' / 'epoch_3.pth'))
    logged = content['message_hub']['log_scalars']
    steps = {name: len(logged[f'train/{name}'].data[0]) for name in ('loss', 'loss_feature_kd')}
    assert steps == dict(loss=12, loss_feature_kd=7)
    assert 'Distillation has been stopped!' in trained.output


def test_a_checkpoint_is_no_larger_than_the_student_s_own(trained, tmp_path):
    """Without teacher: weights and optimizer state of the student, and little more."""
    path = trained.folder / 'whole' / 'epoch_3.pth'
    content = load_checkpoint_file(str(path))
    student = {k: v for k, v in content['state_dict'].items() if k.startswith('architecture.')}
    assert len(student) == len(content['state_dict'])  # equal widths: no adapters
    weights = [v for k, v in student.items() if 'running' not in k and 'num_batches' not in k]
    state = content['optimizer']['state']
    moments = [m for entry in state.values() for m in entry.values() if m.dim()]
    assert len(moments) == 2 * len(state) and len(state) <= len(weights)
    alone = dict(state_dict=student, optimizer=content['optimizer'])
    torch.save(alone, tmp_path / 'alone.pth')
    extra = path.stat().st_size - (tmp_path / 'alone.pth').stat().st_size
    assert extra < (trained.folder / 'teacher.pth').stat().st_size / 4, 'text and log buffers'


@pytest.fixture
def run(trained, tmp_path):
    """A work folder with the last checkpoint, its config, and a model that it fits."""
    shutil.copy(trained.folder / 'whole' / 'epoch_3.pth', tmp_path / 'epoch_3.pth')
    state = load_checkpoint_file(str(tmp_path / 'epoch_3.pth'))['state_dict']

    class Model(torch.nn.Module):
        def state_dict(self):
            return state

    def start(path, resume=True):
        check_start(Config(dict(load_from=str(path), resume=resume)), Model())

    start.folder = tmp_path
    start.whole = tmp_path / 'epoch_3.pth'
    return start


def test_what_is_whole_can_be_resumed(run):
    run(run.whole)
    (run.folder / 'last_checkpoint').write_text(str(run.whole))
    assert newest_checkpoint(str(run.folder)) == str(run.whole)


@pytest.mark.parametrize('note', [None, '', '/moved/from/epoch_3.pth'])
def test_without_a_usable_note_the_newest_whole_file_is_taken(run, note):
    (run.folder / 'epoch_4.pth').write_bytes(run.whole.read_bytes()[:5000])
    if note is not None:
        (run.folder / 'last_checkpoint').write_text(note)
    assert newest_checkpoint(str(run.folder)) == str(run.whole)


def test_nothing_to_resume(tmp_path):
    assert newest_checkpoint(str(tmp_path)) is None
    check_start(Config(dict(resume=True, load_from=None)), torch.nn.Linear(1, 1))


def test_truncated_checkpoint_names_the_previous_one(run):
    broken = run.folder / 'epoch_4.pth'
    broken.write_bytes(run.whole.read_bytes()[:5000])
    with pytest.raises(CheckpointError) as caught:
        run(broken)
    message = str(caught.value)
    assert 'epoch_4.pth (5000 bytes) is truncated' in message
    assert f'--resume {run.whole} is the newest that can' in message
    assert run.whole.exists() and broken.exists()


def test_foreign_checkpoint_names_what_does_not_fit(run):
    content = load_checkpoint_file(str(run.whole))
    state = content['state_dict']
    state['backbone.other'] = state.pop('architecture.level_embed')
    torch.save(content, run.folder / 'other.pth')
    with pytest.raises(CheckpointError) as caught:
        run(run.folder / 'other.pth')
    message = str(caught.value)
    assert 'missing (1): architecture.level_embed' in message
    assert 'unexpected (1): backbone.other' in message
    assert f'--resume {run.whole} is the newest' in message


def test_weights_alone_cannot_be_resumed(run):
    content = load_checkpoint_file(str(run.whole))
    path = run.folder / 'weights.pth'
    torch.save(dict(state_dict=content['state_dict']), path)
    with pytest.raises(CheckpointError, match=r'no meta, optimizer, message_hub.*load_from=.*hts'):
        run(path)
    run(path, resume=False)


def test_weights_to_start_from_must_fit_somewhere(run):
    path = run.folder / 'plain.pth'
    state = load_checkpoint_file(str(run.whole))['state_dict']
    torch.save({name.split('.', 1)[1]: value for name, value in state.items()}, path)
    with pytest.raises(CheckpointError, match=r'plain\.pth does not fit the model'):
        run(path, resume=False)
    torch.save({f'module.{name}': value for name, value in state.items()}, path)
    run(path, resume=False)


@pytest.mark.parametrize('resume', [True, False])
def test_pickle_bomb_is_refused_unexecuted(run, resume):
    bomb, target = run.folder / 'bomb.pth', run.folder / 'executed'
    torch.save(dict(state_dict={}, meta=Bomb(target)), bomb)
    with pytest.raises(CheckpointError, match=r'bomb\.pth was refused .*mkdir'):
        run(bomb, resume=resume)
    assert not target.exists()


def test_what_train_py_adds():
    config = Config(dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3))))
    for _ in range(2):
        make_resumable(config)
    assert config.default_hooks.checkpoint == dict(type='mmdet.SafeCheckpointHook', interval=3)
    assert config.custom_hooks == [dict(type='mmdet.IterationSeedHook')]
    own = Config(
        dict(
            default_hooks=dict(checkpoint=dict(type='Own')),
            custom_hooks=[dict(type='IterationSeedHook', restart_workers=False), dict(type='A')],
        )
    )
    before = own.to_dict()
    make_resumable(own)
    assert own.to_dict() == before

"""There is always a whole checkpoint, whatever happens while the next one is written."""

import errno
import os

import pytest
from mmengine.fileio import get_file_backend

from mmdet_detrdistill import SafeCheckpointHook
from mmdet_detrdistill.checkpoints.read import load_checkpoint_file
from tests.toy_training import toy_runner


def train(folder, epochs, **options):
    """Some epochs; returns the names of files after each save, in order."""
    hook = SafeCheckpointHook(interval=1, **options)
    runner = toy_runner(folder, epochs, custom_hooks=[hook], resume=epochs > 2)
    runner.hooks[:] = [h for h in runner.hooks if type(h).__name__ != 'CheckpointHook']
    seen = []
    save = runner.save_checkpoint

    def watched(*args, **kwargs):
        seen.append(sorted(path.name for path in folder.glob('*.pth*')))
        save(*args, **kwargs)

    runner.save_checkpoint = watched
    runner.train()
    return seen


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth*'))


def test_the_old_file_goes_after_the_new_one_came(tmp_path):
    assert train(tmp_path, 2, max_keep_ckpts=1) == [[], ['epoch_1.pth']]
    assert names(tmp_path) == ['epoch_2.pth']
    assert train(tmp_path, 4, max_keep_ckpts=1) == [['epoch_2.pth'], ['epoch_3.pth']]
    assert names(tmp_path) == ['epoch_4.pth']


def test_max_keep_ckpts(tmp_path):
    train(tmp_path, 2, max_keep_ckpts=2)
    train(tmp_path, 4, max_keep_ckpts=2)
    assert names(tmp_path) == ['epoch_3.pth', 'epoch_4.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_4.pth')


def test_all_are_kept_by_default(tmp_path):
    train(tmp_path, 2)
    assert names(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']


def test_the_old_best_goes_after_the_new_one_came(tmp_path):
    hook = SafeCheckpointHook(interval=1, save_best='score', rule='greater')
    runner = toy_runner(tmp_path, 3)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    hook.before_train(runner)
    present = []

    def save(folder, filename, **options):
        present.append(names(tmp_path))
        (tmp_path / filename).touch()

    runner.save_checkpoint = save
    for epoch, score in ((1, 0.1), (2, 0.3), (3, 0.2)):
        runner.train_loop._epoch = epoch
        hook.after_val_epoch(runner, dict(score=score))
    assert present == [[], ['best_score_epoch_1.pth']]
    assert names(tmp_path) == ['best_score_epoch_2.pth']
    assert hook.best_ckpt_path.endswith('best_score_epoch_2.pth')


@pytest.mark.parametrize('step', ['write', 'replace'])
def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch, step):
    backend = get_file_backend(str(tmp_path), backend_args=dict(backend='atomic'))
    path = tmp_path / 'folder' / 'a.pth'
    backend.put(b'old', str(path))
    assert path.read_bytes() == b'old'

    def full(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync' if step == 'write' else 'replace', full)
    with pytest.raises(OSError, match=r'No space left .*a\.pth \(3 bytes\) could not') as caught:
        backend.put(b'new', str(path))
    assert caught.value.errno == errno.ENOSPC
    assert [file.name for file in path.parent.iterdir()] == ['a.pth']
    assert path.read_bytes() == b'old'


def test_other_backends_are_left_alone(tmp_path):
    hook = SafeCheckpointHook(interval=1, backend_args=dict(backend='local'))
    runner = toy_runner(tmp_path, 1)
    hook.before_train(runner)
    assert hook.backend_args == dict(backend='local')
    hook = SafeCheckpointHook(interval=1)
    hook.before_train(runner)
    assert hook.backend_args == dict(backend='atomic')


def test_what_is_written_is_a_checkpoint(tmp_path):
    train(tmp_path, 1)
    assert load_checkpoint_file(str(tmp_path / 'epoch_1.pth'))['meta']['epoch'] == 1

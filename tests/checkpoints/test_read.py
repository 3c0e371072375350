"""Checkpoints are read without executing anything."""

import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from torch import nn

from mmdet_detrdistill.checkpoints import read as checkpoint_module
from mmdet_detrdistill.checkpoints.read import CheckpointError, load_checkpoint_file
from tests.pickle_bomb import Bomb
from tests.toy_training import toy_runner


@pytest.fixture(scope='module')
def runner_checkpoint(tmp_path_factory) -> str:
    """What MMEngine's runner writes after one epoch; the schedule holds a Counter."""
    work_dir = tmp_path_factory.mktemp('toy')
    schedule = {'type': 'MultiStepLR', 'by_epoch': True, 'milestones': [1]}
    toy_runner(work_dir, epochs=1, param_scheduler=schedule).train()
    return str(work_dir / 'epoch_1.pth')


@pytest.fixture(params=['2.3', '1.13'])
def read_as_before_torch_2_4(request, monkeypatch):
    """Reads as on a PyTorch without a list of allowed types; 1.13 ignores `pickle_module`."""

    def read(path):
        return torch.load(
            path, pickle_module=checkpoint_module.restricted_pickle(), weights_only=False
        )

    def read_by_1_13(path):
        return checkpoint_module._read_restricted(path, torch.serialization)

    old = request.param == '1.13' or torch.__version__ < '2'
    monkeypatch.setattr(checkpoint_module, '_read', read_by_1_13 if old else read)


def assert_runner_checkpoint(checkpoint):
    assert checkpoint['meta']['epoch'] == 1
    assert list(checkpoint['state_dict']) == ['linear.weight', 'linear.bias']
    buffer = checkpoint['message_hub']['log_scalars']['train/loss']
    assert isinstance(buffer, HistoryBuffer)
    assert len(buffer.data[0]) == 2


def test_runner_checkpoint_is_read_with_weights_only(runner_checkpoint):
    if hasattr(torch.serialization, 'add_safe_globals'):  # as MMEngine reads it, from 2.6 on
        assert_runner_checkpoint(torch.load(runner_checkpoint, weights_only=True))
    assert_runner_checkpoint(load_checkpoint_file(runner_checkpoint))


def test_runner_checkpoint_is_read_on_old_torch(runner_checkpoint, read_as_before_torch_2_4):
    assert_runner_checkpoint(load_checkpoint_file(runner_checkpoint))


def test_runner_resumes_its_checkpoint(runner_checkpoint):
    work_dir = Path(runner_checkpoint).parent
    runner = toy_runner(work_dir, epochs=2, resume=True, load_from=runner_checkpoint)
    runner.train()
    assert runner.epoch == 2
    assert load_checkpoint_file(str(work_dir / 'epoch_2.pth'))['meta']['epoch'] == 2


@pytest.mark.parametrize('module', ['numpy.core.multiarray', 'numpy._core.multiarray'])
def test_numpy_values_of_other_numpy_versions(tmp_path, module):
    values = {'state_dict': {}, 'best': np.float64(0.5), 'log': np.arange(3)}
    content = pickle.dumps(values, protocol=2)
    for name in (b'numpy._core.multiarray', b'numpy.core.multiarray'):
        content = content.replace(b'c' + name + b'\n', b'c' + module.encode() + b'\n')
    path = tmp_path / 'numpy.pth'
    torch.save(values, path)
    rewrite_pickle(path, content)
    checkpoint = load_checkpoint_file(str(path))
    assert checkpoint['best'] == 0.5
    np.testing.assert_array_equal(checkpoint['log'], np.arange(3))


def rewrite_pickle(path: Path, content: bytes) -> None:
    """Replace the pickle in a file of torch.save that holds no tensor."""
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.write_record('data.pkl', content, len(content))
    writer.write_end_of_file()


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_pickle_bomb_is_refused_unexecuted(tmp_path, zipped):
    path, target = tmp_path / 'bomb.pth', tmp_path / 'executed'
    content = {'state_dict': {'weight': torch.ones(1)}, 'meta': Bomb(target)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r'bomb\.pth was refused .*mkdir'):
        load_checkpoint_file(str(path))
    assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists(), 'the bomb itself works'


def test_pickle_bomb_is_refused_on_old_torch(tmp_path, read_as_before_torch_2_4):
    test_pickle_bomb_is_refused_unexecuted(tmp_path, True)


class Attribute:
    """Pickles as getattr(HistoryBuffer, name), as MMEngine's log buffers do with their methods."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return getattr, (HistoryBuffer, self.name)


def test_getattr_is_allowed_for_statistics_only(tmp_path):
    path = tmp_path / 'attribute.pth'
    torch.save({'state_dict': {}, 'mean': Attribute('mean')}, path)
    assert load_checkpoint_file(str(path))['mean'] is HistoryBuffer.mean
    torch.save({'state_dict': {}, 'all': Attribute('__init__')}, path)
    with pytest.raises(CheckpointError, match=r"it holds getattr\(\.\.\.,'__init__'\)"):
        load_checkpoint_file(str(path))


def test_other_types_are_refused_by_name(tmp_path):
    path = tmp_path / 'args.pth'
    torch.save({'state_dict': {}, 'args': Namespace(lr=1)}, path)
    with pytest.raises(CheckpointError, match=r'argparse\.Namespace'):
        load_checkpoint_file(str(path))


@pytest.mark.parametrize('kept', [0, 50, 2000])
def test_truncated_file(tmp_path, kept):
    path = tmp_path / 'teacher.pth'
    torch.save({'state_dict': nn.Linear(30, 30).state_dict()}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=rf'teacher\.pth \({kept} bytes\) is truncated'):
        load_checkpoint_file(str(path))


def test_file_that_is_no_checkpoint(tmp_path):
    path = tmp_path / 'page.pth'
    path.write_text('<html>not found</html>')
    with pytest.raises(CheckpointError, match=r'page\.pth .*is no checkpoint'):
        load_checkpoint_file(str(path))


def test_missing_file():
    with pytest.raises(CheckpointError, match=r'nowhere\.pth does not exist'):
        load_checkpoint_file('nowhere.pth')


def test_url_is_read_safely_from_the_cache(tmp_path, monkeypatch):
    source, hub = tmp_path / 'served.pth', tmp_path / 'hub'
    torch.save({'state_dict': {'weight': torch.ones(1)}}, source)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(hub))
    fetched = []

    def download(url, target):
        fetched.append(url)
        Path(target).write_bytes(source.read_bytes())

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    url = 'https://host.example/models/served.pth?version=1'
    for _ in range(2):
        assert load_checkpoint_file(url)['state_dict']['weight'] == 1
    assert fetched == [url]
    torch.save({'state_dict': {}, 'meta': Bomb(tmp_path / 'executed')}, source)
    with pytest.raises(CheckpointError, match='refused'):
        load_checkpoint_file('https://host.example/other.pth')


def test_failed_download_names_the_url(monkeypatch, tmp_path):
    def download(url, target):
        raise OSError('no route')

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    with pytest.raises(CheckpointError, match=r'https://host\.example/a\.pth could not'):
        load_checkpoint_file('https://host.example/a.pth')


@pytest.mark.parametrize(
    ('content', 'message'),
    [([1], 'holds a list'), ({'model': {'a': torch.ones(1)}}, r'no `state_dict`, only model')],
)
def test_checkpoint_without_state_dict(tmp_path, content, message):
    path = tmp_path / 'odd.pth'
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint_file(str(path))


def test_bare_state_dict_is_wrapped(tmp_path):
    path = tmp_path / 'bare.pth'
    torch.save(nn.Linear(2, 2).state_dict(), path)
    assert sorted(load_checkpoint_file(str(path))['state_dict']) == ['bias', 'weight']

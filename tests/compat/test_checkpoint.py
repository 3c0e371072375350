"""Checkpoints are read without executing anything and loaded strictly."""

import os
import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmdet_detrdistill.compat import CheckpointError, load_checkpoint_file, load_strictly
from mmdet_detrdistill.compat import checkpoint as checkpoint_module


class Numbers(Dataset):
    def __init__(self):
        self.metainfo = {'classes': ('a', 'b')}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.full((3,), float(index))


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {'loss': self.linear(torch.stack(list(inputs))).mean()}


def toy_runner(work_dir: Path, epochs: int, **options) -> Runner:
    iterations = not options.get('train_cfg', {}).get('by_epoch', True)
    hooks = {'logger': {'type': 'LoggerHook', 'interval': 1}}
    hooks['checkpoint'] = {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': not iterations}
    defaults = {'train_cfg': {'by_epoch': True, 'max_epochs': epochs}, 'model': Toy()}
    return Runner(
        work_dir=str(work_dir),
        train_dataloader={
            'dataset': Numbers(),
            'batch_size': 2,
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'collate_fn': lambda items: {'inputs': items},
        },
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
        default_hooks=hooks,
        default_scope='mmdet',  # a runner leaves its scope behind, for all later tests
        experiment_name=f'toy_{work_dir.name}_{epochs}',
        **{**defaults, **options},
    )


@pytest.fixture(scope='module')
def runner_checkpoint(tmp_path_factory) -> str:
    """What MMEngine's runner writes after one epoch."""
    work_dir = tmp_path_factory.mktemp('toy')
    toy_runner(work_dir, epochs=1).train()
    return str(work_dir / 'epoch_1.pth')


@pytest.fixture
def read_as_before_torch_2_4(monkeypatch):
    """Reads as on a PyTorch without a list of allowed types."""

    def read(path):
        return torch.load(
            path, pickle_module=checkpoint_module.restricted_pickle(), weights_only=False
        )

    monkeypatch.setattr(checkpoint_module, '_read', read)


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


class Bomb:
    """Leaves a file behind when it is unpickled by an unsafe reader."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


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


def save(path: Path, state_dict, **content) -> str:
    torch.save({'state_dict': state_dict, **content}, path)
    return str(path)


def test_strict_load_returns_meta(tmp_path):
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    path = save(tmp_path / 'ok.pth', source.state_dict(), meta={'epoch': 7})
    assert load_strictly(target, path) == {'epoch': 7}
    torch.testing.assert_close(target.weight, source.weight, rtol=0, atol=0)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_strict_load_refuses_broken_weights(tmp_path, value):
    state = nn.Linear(2, 3).state_dict()
    state['bias'][1] = value
    path = save(tmp_path / 'broken.pth', state)
    with pytest.raises(CheckpointError, match=r'broken\.pth has NaN or Inf in 1 weights: bias\.'):
        load_strictly(nn.Linear(2, 3), path)


def test_strict_load_names_keys_of_every_kind(tmp_path):
    state = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)).state_dict()
    state['extra.weight'] = state.pop('1.bias')
    state['0.weight'] = torch.zeros(5, 2)
    path = save(tmp_path / 'teacher.pth', state)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_strictly(model, path)
    message = str(caught.value)
    assert 'teacher.pth does not fit the teacher' in message
    assert 'missing (1): 1.bias' in message
    assert 'unexpected (1): extra.weight' in message
    assert 'other shape (1): 0.weight (5, 2) instead of (3, 2)' in message
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_strict_load_of_another_architecture_lists_a_few_keys(tmp_path):
    path = save(tmp_path / 'other.pth', {f'backbone.{i}': torch.ones(1) for i in range(30)})
    with pytest.raises(CheckpointError) as caught:
        load_strictly(nn.Linear(2, 2), path, what='student')
    message = str(caught.value)
    assert 'does not fit the student, Linear' in message
    assert 'missing (2): weight, bias' in message
    assert 'unexpected (30): backbone.0, ' in message
    assert 'and 22 more' in message
    assert 'backbone.8' not in message


@pytest.mark.parametrize(
    ('prefix', 'hint'),
    [
        ('architecture.', 'export_student'),
        ('module.', 'without that prefix'),
        ('student.', 'without that prefix'),
    ],
)
def test_strict_load_hints_at_a_wrapper(tmp_path, prefix, hint):
    model = nn.Linear(2, 2)
    state = {prefix + key: value for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=hint):
        load_strictly(model, save(tmp_path / 'wrapped.pth', state))

"""A checkpoint fits its model in every key, or is refused with the keys that do not."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mmdet_detrdistill.checkpoints.read import CheckpointError, load_strictly


def save(path: Path, state_dict, **content) -> str:
    torch.save({'state_dict': state_dict, **content}, path)
    return str(path)


def test_strict_load_returns_meta(tmp_path):
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    path = save(tmp_path / 'ok.pth', source.state_dict(), meta={'epoch': 7})
    assert load_strictly(target, path) == {'epoch': 7}
    torch.testing.assert_close(target.weight, source.weight, rtol=0, atol=0)


def test_positions_that_transformers_stored_are_no_weight(tmp_path):
    model = nn.Linear(2, 3)
    state = dict(model.state_dict())
    state['language_model.embeddings.position_ids'] = torch.arange(5)[None]
    load_strictly(nn.Linear(2, 3), save(tmp_path / 'old.pth', state))
    model.register_buffer('unfit', torch.zeros(1))
    with pytest.raises(CheckpointError, match='missing'):
        load_strictly(model, save(tmp_path / 'old.pth', state))


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

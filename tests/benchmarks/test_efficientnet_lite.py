"""The pretrained backbone of the study: what is frozen, and what is kept in memory."""

import importlib
from pathlib import Path

import pytest
import torch

from tests.benchmarks import efficientnet_stand_in

BENCHMARKS = Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture
def backbone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    efficientnet_stand_in.install(tmp_path, monkeypatch)
    return importlib.import_module('efficientnet_lite').EfficientNetLite(0).train()


def test_maps_have_their_strides_and_channels(backbone):
    maps = backbone(torch.randn(2, 3, 64, 96))
    assert [tuple(found.shape[1:]) for found in maps] == [(40, 8, 12), (112, 4, 6), (320, 2, 3)]


def test_only_the_last_stage_is_trained_and_statistics_stay(backbone):
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    sum(found.sum() for found in backbone(torch.randn(2, 3, 64, 64))).backward()
    trained = {name for name, p in backbone.named_parameters() if p.grad is not None}
    first = backbone.ends[-1] + 1
    assert trained == {
        name
        for name, _ in backbone.named_parameters()
        if name.startswith('blocks.') and int(name.split('.')[1]) >= first
    }
    assert trained and all(torch.equal(before[n], b) for n, b in backbone.named_buffers())


def test_known_images_come_from_memory_in_any_batch(backbone, monkeypatch):
    images = torch.randn(3, 3, 64, 64)
    whole = backbone.run_frozen(images)
    backbone(images[:2])
    seen = []
    run = backbone.run_frozen
    monkeypatch.setattr(backbone, 'run_frozen', lambda x: seen.append(len(x)) or run(x))
    maps = backbone(images[[2, 0, 1]])
    assert seen == [1]
    for found, expected in zip(maps, whole):
        torch.testing.assert_close(found, expected[[2, 0, 1]])
    assert backbone(images[:1])[0].shape[0] == 1 and seen == [1]

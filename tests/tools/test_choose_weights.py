"""tools/choose_weights.py: ratios of gradient norms on training batches, weights for them."""

import json

import pytest

from tests.trainings import LOSSES, distillation, draw_images, load_tool, save_teacher


def test_weights_bring_each_loss_to_the_target(tmp_path, capsys):
    """With a class map by name, and fewer batches of training data than are asked for."""
    draw_images(tmp_path / 'data', train_size=4)
    config = distillation(tmp_path / 'data', save_teacher(tmp_path / 'teacher.pth'))
    config.model.class_map = 'auto'
    config.dump(tmp_path / 'config.py')
    given = [str(tmp_path / 'config.py'), '--batches', '3', '--target', '0.25']
    weights = load_tool('choose_weights').main([*given, '--json', str(tmp_path / 'found.json')])
    found = json.loads((tmp_path / 'found.json').read_text())
    assert set(weights) == set(LOSSES) and found['weights'] == weights
    (ratios,) = found['ratios'].values()
    # the default weights are 1: a loss's gradient is proportional to its weight
    assert weights == pytest.approx({name: 0.25 / ratio for name, ratio in ratios.items()})
    assert 'gradient norm / task loss | loss_' in capsys.readouterr().out

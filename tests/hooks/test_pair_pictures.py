"""Pictures go to every backend of the visualizer, at the right iterations."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
from mmengine.visualization import LocalVisBackend, Visualizer

from mmdet_detrdistill import PairPicturesHook
from tests.detectors import tiny
from tests.hooks.test_assignment_stability import Data
from tests.pictures.test_view import pair_of

NAMES = {'masks_paper', 'masks_released', 'boxes', 'matches', 'references'}


class Collector(LocalVisBackend):
    """A second backend, as TensorBoard or W&B would be."""

    seen: ClassVar[list] = []

    def add_image(self, name, image, step=0, **kwargs):
        self.seen.append((name, image.shape[-1], str(image.dtype), step))


def runner_with(model, visualizer=None):
    return SimpleNamespace(
        model=model,
        val_dataloader=SimpleNamespace(dataset=Data()),
        val_loop=object(),
        visualizer=visualizer,
        iter=0,
    )


def test_pictures_reach_every_backend(tmp_path):
    Collector.seen.clear()
    visualizer = Visualizer(vis_backends=[LocalVisBackend(save_dir=str(tmp_path))])
    visualizer._vis_backends['Collector'] = Collector(save_dir=str(tmp_path))
    runner = runner_with(pair_of(), visualizer)
    hook = PairPicturesHook(interval=2, num_images=1)
    hook.before_train(runner)
    for runner.iter in range(4):  # pictures after the second and the fourth iteration
        hook.after_train_iter(runner, runner.iter)
    files = {path.stem for path in (tmp_path / 'vis_image').glob('*.png')}
    assert files == {f'{name}_0_{step}' for name in NAMES for step in (2, 4)}
    assert {(name, step) for name, _, _, step in Collector.seen} == {
        (f'{name}_0', step) for name in NAMES for step in (2, 4)
    }
    assert {entry[1:3] for entry in Collector.seen} == {(3, 'uint8')}


def test_refused_without_a_teacher_or_validation_data():
    with pytest.raises(ValueError, match=r"needs model\.type='DETRDistill' and a val_dataloader"):
        PairPicturesHook().before_train(runner_with(tiny('deformable')))
    with pytest.raises(ValueError, match='must be positive, got 0 and 1'):
        PairPicturesHook(interval=0)

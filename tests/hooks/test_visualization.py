"""Images go to every backend of the visualizer, at the right iterations."""

import io
from types import ModuleType, SimpleNamespace
from typing import ClassVar
from unittest.mock import patch

import numpy as np
import pytest
from mmengine.visualization import LocalVisBackend, Visualizer
from PIL import Image

from mmdet_detrdistill import PairPicturesHook
from tests.hooks.test_assignment_stability import Data
from tests.tiny_detectors import tiny
from tests.visualization.test_view import pair_of

NAMES = {'masks_paper', 'masks_released', 'boxes', 'matches', 'references'}


class Collector(LocalVisBackend):
    """A second backend, as TensorBoard or W&B would be."""

    seen: ClassVar[list] = []

    def add_image(self, name, image, step=0, **kwargs):
        self.seen.append((name, image.shape[-1], str(image.dtype), step))


def runner_with(model, visualizer=None, iteration=0):
    return SimpleNamespace(
        model=model,
        val_dataloader=SimpleNamespace(dataset=Data()),
        val_loop=object(),
        visualizer=visualizer,
        iter=iteration,
    )


def test_images_reach_every_backend(tmp_path):
    Collector.seen.clear()
    visualizer = Visualizer(vis_backends=[LocalVisBackend(save_dir=str(tmp_path))])
    visualizer._vis_backends['Collector'] = Collector(save_dir=str(tmp_path))
    runner = runner_with(pair_of(), visualizer)
    hook = PairPicturesHook(interval=2, num_images=1)
    hook.before_train(runner)
    for runner.iter in range(4):  # images after the second and the fourth iteration
        hook.after_train_iter(runner, runner.iter)
    files = {path.stem for path in (tmp_path / 'vis_image').glob('*.png')}
    assert files == {f'{name}_0_{step}' for name in NAMES for step in (2, 4)}
    assert {(name, step) for name, _, _, step in Collector.seen} == {
        (f'{name}_0', step) for name in NAMES for step in (2, 4)
    }
    assert {entry[1:3] for entry in Collector.seen} == {(3, 'uint8')}


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """Images after iteration 2: pixels of the files, folder of the events, what MLflow got.

    MMEngine's backend for MLflow works over a stand-in for the package.
    """
    folder, artifacts = tmp_path_factory.mktemp('drawn'), {}
    mlflow = ModuleType('mlflow')
    mlflow.log_image = lambda image, name: artifacts.update({name: image})
    for name in ('set_tracking_uri', 'get_experiment_by_name', 'set_experiment'):
        setattr(mlflow, name, lambda *arguments: arguments)
    backends = [dict(type=f'{name}VisBackend') for name in ('Local', 'Tensorboard', 'MLflow')]
    with patch.dict('sys.modules', mlflow=mlflow):
        visualizer = Visualizer(vis_backends=backends, save_dir=str(folder))
        PairPicturesHook(interval=2).after_train_iter(runner_with(pair_of(), visualizer, 1), 1)
        visualizer.get_backend('TensorboardVisBackend').close()
    events = folder / 'vis_data'
    paths = events.glob('vis_image/*_0_2.png')
    return {p.stem[: -len('_0_2')]: np.asarray(Image.open(p)) for p in paths}, events, artifacts


def test_tensorboard_has_the_images(drawn):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files, folder, _ = drawn
    assert set(files) == NAMES
    events = EventAccumulator(str(folder)).Reload()
    assert set(events.Tags()['images']) == {f'{name}_0' for name in NAMES}
    for name, pixels in files.items():
        (event,) = events.Images(f'{name}_0')
        assert event.step == 2
        shown = Image.open(io.BytesIO(event.encoded_image_string))
        np.testing.assert_array_equal(shown, pixels, err_msg=name)


def test_mlflow_gets_names_of_files(drawn):
    """With an ending, which names the format, and the iteration."""
    files, _, artifacts = drawn
    assert set(artifacts) == {f'{name}_0_2.png' for name in NAMES}
    for name, pixels in files.items():
        np.testing.assert_array_equal(artifacts[f'{name}_0_2.png'], pixels, err_msg=name)


def test_refused_without_a_teacher_or_validation_data():
    with pytest.raises(ValueError, match=r"needs model\.type='DETRDistill' and a val_dataloader"):
        PairPicturesHook().before_train(runner_with(tiny('deformable')))
    with pytest.raises(ValueError, match='must be positive, got 0 and 1'):
        PairPicturesHook(interval=0)

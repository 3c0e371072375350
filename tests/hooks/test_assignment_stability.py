"""What is logged, by value, on a real detector; the training goes on as if nothing had been."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from torch.testing import assert_close

from mmdet_detrdistill import AssignmentStabilityHook, build_adapter
from mmdet_detrdistill.functional.stability import instability, queries_of_objects
from mmdet_detrdistill.hooks.assignment_stability import KEY
from mmdet_detrdistill.hooks.fixed_images import objects_of
from tests.tiny_detectors import sample_of, tiny

ENTRIES = [
    [dict(bbox=[20, 24, 120, 100], bbox_label=0), dict(bbox=[60, 40, 180, 140], bbox_label=2)],
    [dict(bbox=[10, 10, 80, 160], bbox_label=1), dict(bbox=[0, 0, 9, 9], bbox_label=1)],
    [],
]
ENTRIES[1][1]['ignore_flag'] = 1


class Data:
    """Images of 192 x 256, shown at half their size; boxes in the original's pixels."""

    def __len__(self):
        return len(ENTRIES)

    def __getitem__(self, index):
        image = torch.full((3, 96, 128), 40 * index, dtype=torch.uint8)
        sample = sample_of((96, 128), (96, 128), [], [])
        sample.set_metainfo(dict(scale_factor=(0.5, 0.5)))
        return dict(inputs=image, data_samples=sample)

    def get_data_info(self, index):
        return dict(instances=ENTRIES[index])


class Scalars(list):
    def add_scalars(self, values, step):
        self.append((step, values))


@pytest.fixture
def runner():
    hub = MessageHub.get_instance('test_stability')
    hub.runtime_info.clear()
    return SimpleNamespace(
        model=tiny('deformable').train(),
        val_dataloader=SimpleNamespace(dataset=Data()),
        train_loop=SimpleNamespace(max_epochs=3),
        val_loop=object(),
        message_hub=hub,
        visualizer=Scalars(),
        logger=logging.getLogger('test'),
        epoch=0,
    )


def match_by_hand(model):
    """The detector's own assignment of the three objects in images 0 and 1."""
    adapter, found = build_adapter(model.eval()), []
    boxes = [[[10, 12, 60, 50], [30, 20, 90, 70]], [[5, 5, 40, 80]]]
    for index, labels in enumerate(([0, 2], [1])):
        data = Data()[index]
        batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
        images = model.data_preprocessor(batch)['inputs']
        sample = sample_of((96, 128), (96, 128), boxes[index], labels)
        with torch.no_grad():
            forward = adapter.forward_pass(images, [sample])
        found.append(
            queries_of_objects(adapter.assign(forward.outputs, [sample])[:, 0], len(labels))
        )
    model.train()
    return torch.cat(found, 1)


def test_logged_value(runner):
    hook = AssignmentStabilityHook()
    hook.before_train(runner)
    before = match_by_hand(runner.model)
    hook.after_train_epoch(runner)
    assert runner.visualizer == [], 'one epoch has nothing to be compared with'
    torch.manual_seed(3)
    for parameter in runner.model.parameters():  # an epoch
        parameter.data += 0.05 * torch.randn_like(parameter)
    runner.epoch = 1
    hook.after_train_epoch(runner)
    shares = instability(before, match_by_hand(runner.model))
    assert shares.sum() > 0
    ((step, logged),) = runner.visualizer
    assert step == 2
    names = ['assignment/instability', *(f'assignment/instability_stage{i}' for i in (1, 2))]
    assert list(logged) == names
    assert_close(torch.tensor(list(logged.values())), torch.stack([shares.mean(), *shares]))


def test_nothing_changes_nothing(runner):
    hook = AssignmentStabilityHook()
    for runner.epoch in range(2):
        hook.after_train_epoch(runner)
    assert set(runner.visualizer[0][1].values()) == {0.0}


def test_the_training_is_not_disturbed(runner):
    """Random numbers, weights and buffers, gradients and modes are as before."""
    torch.manual_seed(0)
    np.random.seed(0)
    state = {name: value.clone() for name, value in runner.model.state_dict().items()}
    modes = [module.training for module in runner.model.modules()]
    random, other = torch.get_rng_state(), np.random.get_state()[1].copy()
    AssignmentStabilityHook().after_train_epoch(runner)
    assert torch.equal(torch.get_rng_state(), random)
    assert np.array_equal(np.random.get_state()[1], other)
    assert [module.training for module in runner.model.modules()] == modes
    assert_close(runner.model.state_dict(), state, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in runner.model.parameters())


def test_it_is_kept_for_a_resume(runner):
    """What is compared with is part of what MMEngine saves."""
    AssignmentStabilityHook().after_train_epoch(runner)
    kept = runner.message_hub.state_dict()['runtime_info'][KEY]
    assert kept == match_by_hand(runner.model).tolist()


def test_evenly_spread_images(runner):
    """One of three images: the first, with its two objects; all have three."""
    for count, objects in ((1, 2), (2, 3), (100, 3)):
        found = AssignmentStabilityHook(count).match(runner.model, runner.val_dataloader.dataset)
        assert found.shape == (2, objects)


def test_ground_truth_in_pixels_of_the_resized_image():
    found = objects_of(Data().get_data_info(1), Data()[1]['data_samples'])
    assert_close(found.bboxes, torch.tensor([[5.0, 5.0, 40.0, 80.0]]))
    assert found.labels.tolist() == [1]


def test_trainings_without_epochs_or_validation_are_refused(runner):
    runner.val_loop = None
    with pytest.raises(ValueError, match='needs an EpochBasedTrainLoop and a val_dataloader'):
        AssignmentStabilityHook().before_train(runner)
    with pytest.raises(ValueError, match='num_images must be positive, got 0'):
        AssignmentStabilityHook(0)

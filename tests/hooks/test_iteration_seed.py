"""Random numbers depend on seed, rank and iteration alone."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmdet_detrdistill import IterationSeedHook
from tests.toy_training import Toy, toy_runner


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


def runner_at(iteration, loader=None, seed=3):
    loader = loader or SimpleNamespace(num_workers=0)
    return SimpleNamespace(seed=seed, iter=iteration, train_dataloader=loader, train_loop=None)


def test_draws_depend_on_seed_and_iteration():
    hook = IterationSeedHook()
    found = {}
    for seed, iteration in ((3, 0), (3, 1), (4, 1)):
        for _ in range(2):
            hook.before_train_iter(runner_at(iteration, seed=seed), 0)
            found.setdefault((seed, iteration), []).append(draws())
    assert all(first == second for first, second in found.values())
    assert len({values for pair in found.values() for values in pair}) == 3
    hook.before_train_epoch(runner_at(0))  # for loading, not the same as for the step
    assert draws() != found[3, 0][0]


def test_disabled_hook_leaves_the_random_states():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    hook = IterationSeedHook(enabled=False)
    hook.before_train_epoch(runner_at(0))
    hook.before_train_iter(runner_at(0), 0)
    assert torch.equal(torch.get_rng_state(), state)


class Augmented(Dataset):
    """Every item is three random numbers."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([np.random.rand(), random.random(), torch.rand(()).item()])


@pytest.mark.parametrize('persistent', [False, True])
def test_workers_draw_the_same_after_a_resume(persistent):
    """Epoch 1 after epoch 0 draws as epoch 1 at once, and not as epoch 0 did."""

    def epochs(iterations):
        config = dict(
            dataset=Augmented(),
            batch_size=2,
            num_workers=1,
            persistent_workers=persistent,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=torch.stack,
        )
        loader = Runner.build_dataloader(config, seed=3)
        hook = IterationSeedHook()
        for iteration in iterations:
            hook.before_train_epoch(runner_at(iteration, loader))
            yield torch.cat(list(loader))

    first, second = epochs((0, 2))
    (resumed,) = epochs((2,))
    assert torch.equal(second, resumed)
    assert not torch.equal(first, second)


class Noisy(Toy):
    """Its gradient depends on a random number per step."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        inputs = [item * torch.rand(()) for item in inputs]
        return super().forward(inputs, data_samples, mode)


@pytest.mark.parametrize('seeded', [True, False])
def test_iteration_based_training_resumes_to_the_same_weights(tmp_path, seeded):
    """Saved at iteration 3 in mid-epoch; without the hook the weights differ."""

    def train(name, iterations, **options):
        torch.manual_seed(0)
        runner = toy_runner(
            tmp_path / name,
            iterations,
            model=Noisy(),
            train_cfg=dict(by_epoch=False, max_iters=iterations),
            custom_hooks=[IterationSeedHook()] if seeded else [],
            randomness=dict(seed=1),
            **options,
        )
        runner.train()
        return runner.model.linear.weight.clone()

    whole = train('whole', 6)
    train('part', 3)
    path = str(tmp_path / 'part' / 'iter_3.pth')
    resumed = train('rest', 6, resume=True, load_from=path)
    assert torch.equal(whole, resumed) == seeded

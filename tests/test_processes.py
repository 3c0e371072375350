"""Two processes on the CPU with `find_unused_parameters=False`."""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mmdet_detrdistill import DETRDistill
from tests.detectors import batch, tiny

LOSSES = dict(
    loss_logits_kd=dict(type='LogitsKDLoss'),
    loss_feature_kd=dict(type='FeatureKDLoss'),
    loss_assign_kd=dict(type='AssignKDLoss'),
    loss_aligned_kd=dict(type='AlignedKDLoss'),
)


def work(rank, port, folder):
    """Three steps; process 0 sees no object at all; from the third on distillation has stopped."""
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=2)
    model = DETRDistill(
        tiny('dino', seed=1),
        tiny('dino', seed=2),
        dict(type='DETRDistiller', distill_losses=LOSSES),
    ).train()
    wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=1e-4)
    for step in range(4):  # a step raises if a parameter went unused in the one before
        model.distillation_stopped = step >= 2
        losses = wrapped(*batch(empty='all' if rank == 0 else 'none', seed=rank), mode='loss')
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()
    torch.save(model.state_dict(), folder / f'rank{rank}.pth')
    dist.destroy_process_group()


def test_ranks_agree_without_objects_and_after_the_stop(tmp_path):
    """Both ranks hold the same weights after steps on unlike batches; the teacher is in none."""
    torch.multiprocessing.spawn(work, (29600 + os.getpid() % 300, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1))
    parameters = [name for name in first if 'running' not in name and 'batches' not in name]
    assert parameters and not any('teacher' in name for name in parameters)
    for name in parameters:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)

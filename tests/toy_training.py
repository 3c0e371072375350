"""A training without a detector: one linear layer, MMEngine's runner."""

from pathlib import Path

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset


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

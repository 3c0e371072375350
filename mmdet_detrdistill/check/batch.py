"""The batch that a check runs on: the first of the training data, or a random one."""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from ..detectors.class_map import class_names


def first_batch(
    config: Config, size: Sequence[int], num_classes: int, synthetic: bool
) -> Tuple[Dict[str, Any], str, Optional[List[str]]]:
    """The first batch of the training data, or a synthetic one of `size` when there is no data.

    Returns:
        The batch, where it is from, and the class names of the data.
    """
    names = data_class_names(config)
    if synthetic:
        return synthetic_batch(size, num_classes), 'synthetic', names
    loader_config = dict(config.train_dataloader, num_workers=0, persistent_workers=False)
    loader_config.pop('prefetch_factor', None)
    try:
        loader = Runner.build_dataloader(loader_config, seed=0)
        batch = next(iter(loader))
    except FileNotFoundError as error:
        source = f'synthetic, since {error.filename or error} is missing'
        return synthetic_batch(size, num_classes), source, names
    names = class_names(getattr(loader.dataset, 'metainfo', None) or {})
    return batch, 'first batch of the training data', names


def data_class_names(config: Config) -> Optional[List[str]]:
    """Class names that a config gives its training data; the data is not read. None: none."""
    dataset = config.get('train_dataloader', {}).get('dataset', {})
    while 'dataset' in dataset or dataset.get('datasets'):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    known = getattr(DATASETS.get(dataset.get('type', '')), 'METAINFO', {})
    return class_names({**known, **(dataset.get('metainfo') or {})})


def teacher_class_names(
    teacher: Union[str, Dict[str, Any]], num_classes: int
) -> Optional[List[str]]:
    """Class names of the data in the config of a teacher that has no checkpoint yet.

    Args:
        teacher: a path, or `dict(cfg_path=path)`; None for others.
        num_classes: of the teacher; names of another number are not its own.
    """
    path = teacher if isinstance(teacher, str) else teacher.get('cfg_path')
    if path is None:
        return None
    names = data_class_names(get_config(path) if '::' in path else Config.fromfile(path))
    return names if names is not None and len(names) == num_classes else None


def synthetic_batch(size: Sequence[int], num_classes: int) -> Dict[str, List[Any]]:
    """Two random images, (H, W) and 7/8 of it, so that one is padded; 3 and 0 objects."""
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for index, count in enumerate((3, 0)):
        height, width = (side * (8 - index) // 8 for side in size)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        start = torch.rand(count, 2, generator=generator) * 0.5
        extent = 0.2 + torch.rand(count, 2, generator=generator) * 0.3
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_path=f'synthetic {index}',
                img_shape=(height, width),
                ori_shape=(height, width),
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat((start, start + extent), -1) * scale,
            labels=torch.randint(0, num_classes, (count,), generator=generator),
        )
        inputs.append(image)
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)

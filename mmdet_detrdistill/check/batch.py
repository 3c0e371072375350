"""The batch of a check: the first of the training data, or a random one."""

import os.path as osp
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from ..config.coco_format import is_coco, leaf_datasets, read_annotations
from ..config.load import load_config
from ..detectors import DetectorAdapter
from ..detectors.class_map import class_names
from ..detectors.label_numbers import check_label_numbers, check_num_classes
from ..detectors.levels import num_channels
from ..registry import class_of, scope_of

Rows = List[Tuple[str, str]]


def first_batch(
    config: Config, size: Sequence[int], student: DetectorAdapter, synthetic: bool
) -> Tuple[Dict[str, Any], str, Optional[List[str]], Rows]:
    """Return the first batch of the training data, or a synthetic one of `size` without data.

    Returns:
        The batch, where it is from, the class names of the data, and what the annotation files
        hold.

    Raises:
        ValueError: an annotation file cannot be trained on, or nothing in it is labelled; see
            `check_label_numbers`.
    """
    names = data_class_names(config)
    channels = num_channels(student.detector)
    if synthetic:
        check_num_classes(len(names or ()), student.num_classes)
        batch = synthetic_batch(size, student.num_classes, channels)
        return batch, 'synthetic', names, []
    loader_config = dict(config.train_dataloader, num_workers=0, persistent_workers=False)
    loader_config.pop('prefetch_factor', None)
    try:
        with scope_of(config), redirect_stdout(StringIO()):  # COCO's reader talks
            rows = describe_labels(config)
            loader = Runner.build_dataloader(loader_config, seed=0)
            names = class_names(getattr(loader.dataset, 'metainfo', None) or {})
            check_label_numbers(loader.dataset, names, student.num_classes)
            batch = next(iter(loader))
    except FileNotFoundError as error:
        source = f'synthetic, since {error.filename or error} is missing'
        return synthetic_batch(size, student.num_classes, channels), source, names, []
    return batch, 'first batch of the training data', names, rows


def describe_labels(config: Config) -> Rows:
    """Count the objects in each COCO-format annotation file that is there.

    Raises:
        ValueError: see `read_annotations`, or no object of the classes is labelled.
    """
    rows: Rows = []
    for key in ('train', 'val'):
        loader = config.get(f'{key}_dataloader')
        for dataset in leaf_datasets(loader.dataset) if loader else ():
            path = osp.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
            if not is_coco(dataset) or not osp.isfile(path):
                continue
            classes = class_names(dataset.get('metainfo') or {})
            counted = read_annotations(path, key == 'val').describe(classes)
            rows.append((f'{key} labels', counted))
    return rows


def data_class_names(config: Config) -> Optional[List[str]]:
    """Return the class names that a config gives its training data, or None; reads no data."""
    loader = config.get('train_dataloader') or {}
    known = [
        {**getattr(class_of('DATASETS', part), 'METAINFO', {}), **(part.get('metainfo') or {})}
        for part in (leaf_datasets(loader['dataset']) if loader else ())
    ]
    return class_names(known)


def teacher_class_names(
    teacher: Union[str, Dict[str, Any]], num_classes: int
) -> Optional[List[str]]:
    """Return the class names in the config of a teacher that has no checkpoint yet.

    Args:
        teacher: a path, or `dict(cfg_path=path)`; None for others.
        num_classes: of the teacher; names of another number are not its own.
    """
    path = teacher if isinstance(teacher, str) else teacher.get('cfg_path')
    names = None if path is None else data_class_names(load_config(path, 'teacher config'))
    return names if names is not None and len(names) == num_classes else None


def synthetic_batch(
    size: Sequence[int], num_classes: int, channels: int = 3
) -> Dict[str, List[Any]]:
    """Make two random images, (H, W) and 7/8 of it, so that one is padded; 3 and 0 objects."""
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for index, count in enumerate((3, 0)):
        height, width = (side * (8 - index) // 8 for side in size)
        image = torch.randint(
            0, 256, (channels, height, width), generator=generator, dtype=torch.uint8
        )
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

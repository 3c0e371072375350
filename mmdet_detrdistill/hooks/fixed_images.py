"""Validation images with their ground truth, without augmentation."""

from typing import Any, Dict

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData


def fixed_image(dataset: Any, index: int) -> Dict[str, Any]:
    """Return an entry of a validation data set: `inputs` and `data_samples` with `gt_instances`.

    The ground truth is read from the annotation, in pixels of the resized image: test pipelines
    load boxes after resizing and do not scale them, or do not load them.
    """
    data = dict(dataset[index])
    sample = data['data_samples']
    sample.gt_instances = objects_of(dataset.get_data_info(index), sample)
    return data


def objects_of(info: Dict[str, Any], sample: DetDataSample) -> InstanceData:
    """Return the ground truth of an entry of a data set, in pixels of the resized image."""
    kept = [entry for entry in info['instances'] if not entry.get('ignore_flag', 0)]
    width, height = sample.scale_factor
    boxes = torch.tensor([entry['bbox'] for entry in kept], dtype=torch.float32).reshape(-1, 4)
    return InstanceData(
        bboxes=boxes * boxes.new_tensor([width, height, width, height]),
        labels=torch.tensor([entry['bbox_label'] for entry in kept], dtype=torch.long),
    )

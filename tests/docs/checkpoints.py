"""python checkpoints.py CONFIG FILE ...: checkpoints of the random model of a config, seeds 0, 1.

A distillation is built with a random teacher.
"""

import sys

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_detrdistill.config.coco_format import resolve_coco_format
from mmdet_detrdistill.config.load import detector_config


def main() -> None:
    config = Config.fromfile(sys.argv[1])
    resolve_coco_format(config)
    init_default_scope('mmdet')
    if 'architecture' in config.model:
        config.model.teacher = MODELS.build(detector_config(config.model.teacher))
        config.model.teacher_ckpt = None
    meta = dict(dataset_meta=dict(classes=config.classes))
    for seed, path in enumerate(sys.argv[2:]):
        torch.manual_seed(seed)
        model = MODELS.build(config.model)
        model.init_weights()
        torch.save(dict(state_dict=model.state_dict(), meta=meta), path)


if __name__ == '__main__':
    main()

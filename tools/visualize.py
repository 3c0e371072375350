"""Draw what a teacher passes on to a student, image by image.

    python tools/visualize.py CONFIG CHECKPOINT IMAGE [IMAGE ...] [--alone CHECKPOINT]

CONFIG is that of the distillation, CHECKPOINT its own or a plain one of the student. Writes per
image the target-aware masks of both forms, the boxes of teacher and student, the matches coloured
by cost, the injected queries' reference points and, with --alone (the student trained alone), what
changed. The ground truth is used where the image is one of the config's validation data.
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from copy import deepcopy
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import mmcv
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

import mmdet_detrdistill  # noqa: F401  registers everything
from mmdet_detrdistill.check.batch import data_class_names
from mmdet_detrdistill.check.run import quiet
from mmdet_detrdistill.checkpoints.export import student_state_dict
from mmdet_detrdistill.checkpoints.read import (
    CheckpointError,
    load_checkpoint_file,
    load_state_strictly,
)
from mmdet_detrdistill.config.launch import add_config_options
from mmdet_detrdistill.config.read import read_config
from mmdet_detrdistill.detectors import build_adapter
from mmdet_detrdistill.detectors.class_map import settle_classes
from mmdet_detrdistill.hooks.fixed_images import fixed_image
from mmdet_detrdistill.visualization import draw_all, view_pair
from mmdet_detrdistill.visualization.view import Predictions, read_predictions


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_config_options(parser)
    parser.add_argument('checkpoint', help='of the distillation, or a plain one of the student')
    parser.add_argument('images', nargs='+', metavar='IMAGE')
    parser.add_argument('--alone', metavar='CHECKPOINT', help='of the student trained alone')
    parser.add_argument('--out', default='images', help='folder to write (default: images)')
    return parser


def build(config: Config, checkpoint: str) -> Any:
    """The distillation with its weights."""
    if config.model.get('type') != 'DETRDistill':
        raise ValueError("not a distillation config: model.type is not 'DETRDistill'")
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config.model)
    state = load_checkpoint_file(checkpoint)
    whole = any(key.startswith('architecture.') for key in state.get('state_dict', {}))
    target, weights = (
        (model, state['state_dict'])
        if whole
        else (
            model.student,
            student_state_dict(state),
        )
    )
    load_state_strictly(target, weights, checkpoint, what='distillation' if whole else 'student')
    settle_classes(model, data_class_names(config))
    return model.to('cuda' if torch.cuda.is_available() else 'cpu').eval()


def load_images(config: Config, paths: Sequence[str]) -> List[Dict[str, Any]]:
    """Each image as the test pipeline leaves it, with its ground truth if it is known."""
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f'{", ".join(missing)} does not exist')
    with DefaultScope.overwrite_default_scope('mmdet'):
        try:
            dataset = DATASETS.build(config.val_dataloader.dataset)
        except FileNotFoundError:
            dataset = []
        known = {
            Path(dataset.get_data_info(index)['img_path']).resolve(): index
            for index in range(len(dataset))
        }
        steps = [step for step in get_test_pipeline_cfg(config) if 'Annotations' not in step.type]
        pipeline = Compose(steps)
    found = []
    for path in paths:
        index = known.get(Path(path).resolve())
        if index is not None:
            found.append(fixed_image(dataset, index))
            continue
        data = pipeline(dict(img_path=path, img_id=0))
        empty = dict(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        data['data_samples'].gt_instances = InstanceData(**empty)
        found.append(data)
    return found


@torch.no_grad()
def predictions_alone(model: Any, checkpoint: str, data: Dict[str, Any]) -> Predictions:
    """Of the same student with other weights."""
    student = deepcopy(model.student)
    weights = student_state_dict(load_checkpoint_file(checkpoint))
    load_state_strictly(student, weights, checkpoint, what='student alone')
    batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
    batch = model.data_preprocessor(batch, training=False)
    adapter = build_adapter(student.eval(), 'student')
    forward = adapter.forward_pass(batch['inputs'], batch['data_samples'])
    return read_predictions(forward.outputs, adapter.activation)


def draw(arguments: Namespace) -> List[str]:
    """Write all images; their paths."""
    config = read_config(arguments, needs_data=False)
    model = build(config, arguments.checkpoint)
    names = data_class_names(config)
    paths = []
    for path, data in zip(arguments.images, load_images(config, arguments.images)):
        alone = None
        if arguments.alone is not None:
            alone = predictions_alone(model, arguments.alone, data)
        for name, image in draw_all(view_pair(model, data), names, alone).items():
            paths.append(str(Path(arguments.out) / f'{Path(path).stem}_{name}.png'))
            mmcv.imwrite(image[..., ::-1], paths[-1])
    return paths


def main(argv: Optional[Sequence[str]] = None) -> List[str]:
    arguments = build_parser().parse_args(argv)
    try:
        with quiet():
            paths = draw(arguments)
    except (CheckpointError, OSError, ValueError, TypeError) as error:
        sys.exit(f'visualize: {" ".join(str(error).split())}')
    for path in paths:
        print(f'wrote {path}')
    return paths


if __name__ == '__main__':
    main()

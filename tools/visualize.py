"""Draw what is distilled, image by image.

    python tools/visualize.py CONFIG CHECKPOINT IMAGE [IMAGE ...] [--alone CHECKPOINT]

CONFIG is that of the distillation, CHECKPOINT its own or a plain one of the student. Writes per
image the target-aware masks of both forms, the boxes of teacher and student, the matches coloured
by cost, the injected queries' reference points and, with --alone (the student trained alone), what
changed. The ground truth is used where the image is one of the config's validation data.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from copy import deepcopy
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import mmcv
import torch
from mmdet.registry import DATASETS
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.structures import InstanceData

from mmdet_detrdistill.check.batch import data_class_names
from mmdet_detrdistill.check.model import build
from mmdet_detrdistill.check.run import quiet
from mmdet_detrdistill.checkpoints.export import student_state_dict
from mmdet_detrdistill.checkpoints.read import (
    CheckpointError,
    load_checkpoint_file,
    load_state_strictly,
)
from mmdet_detrdistill.config.launch import add_config_options
from mmdet_detrdistill.config.read import read_config
from mmdet_detrdistill.detectors.class_map import settle_classes
from mmdet_detrdistill.hooks.fixed_images import fixed_image
from mmdet_detrdistill.registry import scope_of
from mmdet_detrdistill.visualization import Predictions, draw_all, view_pair


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_config_options(parser)
    parser.add_argument('checkpoint', help='of the distillation, or a plain one of the student')
    parser.add_argument('images', nargs='+', metavar='IMAGE')
    parser.add_argument('--alone', metavar='CHECKPOINT', help='of the student trained alone')
    parser.add_argument('--out', default='images', help='folder to write (default: images)')
    return parser


def load_model(config: Config, checkpoint: str) -> Any:
    """The distillation with the weights of its own checkpoint, or of one of the student."""
    model = build(config, random_teacher=False)
    state = load_checkpoint_file(checkpoint)['state_dict']
    whole = any(key.startswith('architecture.') for key in state)
    target, what = (model, 'distillation') if whole else (model.student, 'student')
    load_state_strictly(target, state, checkpoint, what=what)
    settle_classes(model, data_class_names(config))
    return model.to('cuda' if torch.cuda.is_available() else 'cpu').eval()


def load_images(config: Config, paths: Sequence[str]) -> List[Dict[str, Any]]:
    """Each image as the test pipeline leaves it, with its ground truth if it is known."""
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f'{", ".join(missing)} does not exist')
    with scope_of(config):
        try:
            dataset = DATASETS.build(config.val_dataloader.dataset)
        except FileNotFoundError:
            dataset = []
        steps = [step for step in get_test_pipeline_cfg(config) if 'Annotations' not in step.type]
        pipeline = Compose(steps)
    places = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    known = {Path(place).resolve(): index for index, place in enumerate(places)}
    images = []
    for path in map(Path, paths):
        if path.resolve() in known:
            images.append(fixed_image(dataset, known[path.resolve()]))
        else:
            images.append(pipeline(dict(img_path=str(path), img_id=0)))
            empty = dict(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
            images[-1]['data_samples'].gt_instances = InstanceData(**empty)
    return images


def predictions_alone(model: Any, checkpoint: str, data: Dict[str, Any]) -> Predictions:
    """Predictions of the same student with other weights."""
    model = deepcopy(model)
    weights = student_state_dict(load_checkpoint_file(checkpoint))
    load_state_strictly(model.student, weights, checkpoint, what='student alone')
    return view_pair(model, data).student


def main(argv: Optional[Sequence[str]] = None) -> List[str]:
    """Draw, and return the paths of the files."""
    arguments = build_parser().parse_args(argv)
    paths = []
    try:
        with quiet():
            config = read_config(arguments, needs_data=False)
            model = load_model(config, arguments.checkpoint)
            names = data_class_names(config)
            for image, data in zip(arguments.images, load_images(config, arguments.images)):
                alone = arguments.alone and predictions_alone(model, arguments.alone, data)
                for name, drawn in draw_all(view_pair(model, data), names, alone).items():
                    paths.append(str(Path(arguments.out) / f'{Path(image).stem}_{name}.png'))
                    mmcv.imwrite(drawn[..., ::-1], paths[-1])
    except (CheckpointError, OSError, ValueError, TypeError) as error:
        sys.exit(f'visualize: {" ".join(str(error).split())}')
    for path in paths:
        print(f'wrote {path}')
    return paths


if __name__ == '__main__':
    main()

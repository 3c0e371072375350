"""Wrong images, annotations and configs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from tests.faults.cases import Place, case, reason, whole
from tests.trainings import distillation, run_training

NAMED = 'error that names the image'


def with_data(
    place: Place, folder: Path, edit: Callable[[Dict[str, Any], Path], Any], split: str = 'train'
) -> Config:
    """The config on a copy of the data whose annotation file `edit` changes in place."""
    shutil.copytree(place.data, folder / 'data')
    path = folder / 'data' / 'annotations' / f'instances_{split}.json'
    content = json.loads(path.read_text())
    edit(content, folder / 'data' / split)
    path.write_text(json.dumps(content))
    return distillation(folder / 'data', place.teacher, epochs=1)


def spoil_first_image(place: Place, folder: Path, spoil: Callable[[bytes], bytes]) -> Config:
    def edit(content: Dict[str, Any], images: Path) -> None:
        path = images / content['images'][0]['file_name']
        path.write_bytes(spoil(path.read_bytes()))

    return with_data(place, folder, edit)


@case('image that is no image', NAMED, r'AssertionError: failed to load image: 000000\.png')
def _(place: Place, folder: Path) -> List[str]:
    config = spoil_first_image(place, folder, lambda content: b'no image' * 100)
    ended = run_training(config, folder / 'run')
    return [reason(ended), whole(folder / 'run')]


@case('image that is missing', NAMED, r'FileNotFoundError: .*000000\.png.*', slow=True)
def _(place: Place, folder: Path) -> List[str]:
    config = spoil_first_image(place, folder, lambda content: b'')
    (folder / 'data' / 'train' / '000000.png').unlink()
    ended = run_training(config, folder / 'run')
    return [reason(ended), whole(folder / 'run')]


@case('image cut in half', NAMED, r'(AssertionError|OSError): .*000000\.png.*')
def _(place: Place, folder: Path) -> List[str]:
    config = spoil_first_image(place, folder, lambda content: content[: len(content) // 2])
    ended = run_training(config, folder / 'run')
    return [reason(ended), whole(folder / 'run')]


def objects_kept(config: Config) -> int:
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(config.train_dataloader.dataset)
    return sum(len(item['data_samples'].gt_instances) for item in dataset)


@case('images without any object', 'finite losses', 'trained, 0 objects')
def _(place: Place, folder: Path) -> List[str]:
    config = with_data(place, folder, lambda content, _: content.update(annotations=[]))
    ended = run_training(config, folder / 'run')
    assert not re.search(r'loss\S*: (nan|inf)', ended.output)
    return [f'{reason(ended)}, {objects_kept(config)} objects', whole(folder / 'run')]


@case(
    'boxes of zero area, outside the image, partly outside, crowds',
    'finite losses; only real boxes count',
    'trained; of 6 boxes 2 counted: a sound one and one partly outside',
)
def _(place: Place, folder: Path) -> List[str]:
    def edit(content: Dict[str, Any], images: Path) -> None:
        names = {entry['name']: entry['id'] for entry in content['categories']}
        boxes = [
            ([5, 5, 20, 20], 0),
            ([50, 30, 60, 20], 0),  # partly outside
            ([10, 10, 0, 12], 0),
            ([10, 10, 12, 0], 0),
            ([900, 900, 10, 10], 0),
            ([2, 2, 40, 40], 1),
        ]
        content['annotations'] = [
            dict(
                id=index + 1,
                image_id=content['images'][0]['id'],
                category_id=names['circle'],
                bbox=box,
                area=box[2] * box[3],
                iscrowd=crowd,
            )
            for index, (box, crowd) in enumerate(boxes)
        ]

    config = with_data(place, folder, edit)
    ended = run_training(config, folder / 'run')
    assert not re.search(r'loss\S*: (nan|inf)', ended.output)
    counted = f'of 6 boxes {objects_kept(config)} counted: a sound one and one partly outside'
    return [f'{reason(ended)}; {counted}', whole(folder / 'run')]


def config_case(name: str, expected: str, option: str) -> None:
    @case(f'config: {name}', 'error that names it', expected)
    def _(place: Place, folder: Path) -> List[str]:
        ended = run_training(place.config, folder / 'run', '--cfg-options', option)
        assert not list((folder / 'run').glob('*.pth'))
        return [reason(ended), 'stopped before the first iteration']


LOSSES = 'model.distiller.distill_losses'
config_case(
    'a loss that does not exist',
    r".*loss_logit_kd: a LogitsKDLoss goes by the name 'loss_logits_kd'.*",
    f'{LOSSES}.loss_logit_kd.type=LogitsKDLoss',
)
config_case(
    'an option that a loss lacks',
    r".*loss_logits_kd: unknown option \['negativ_cls'\]; valid are .*negative_cls.*",
    f'{LOSSES}.loss_logits_kd.negativ_cls=True',
)
config_case(
    'a preset that does not exist',
    r".*'released'.*got 'papers'",
    f'{LOSSES}.loss_logits_kd.preset=papers',
)
config_case('a misspelt argument', r'.*techer_ckpt.*', 'model.techer_ckpt=a.pth')
config_case('a misspelt class', r'.*DETRDistil\b.*registry.*', 'model.type=DETRDistil')

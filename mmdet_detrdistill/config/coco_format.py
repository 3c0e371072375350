"""One config for any data in COCO's annotation format."""

import json
import os.path as osp
from typing import Any, Dict, List, Sequence, Tuple

from mmengine.config import Config, ConfigDict

PLACES = ('data_root', 'train_ann', 'train_img', 'val_ann', 'val_img')


def read_annotations(path: str, images: str) -> List[str]:
    """Class names in an annotation file's own order, which is the order of the labels.

    Args:
        path: annotation file.
        images: folder that its `file_name`s are relative to.

    Raises:
        FileNotFoundError: no such file, or its first image is not there.
        ValueError: not COCO format, no images or categories, a name twice.
    """
    if not osp.isfile(path):
        raise FileNotFoundError(
            f'annotation file {path} does not exist; set data_root, train_ann and val_ann '
            '(relative to data_root)'
        )
    with open(path, encoding='utf-8') as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f'{path} is not JSON: {error}') from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f'{path} is not a COCO detection file: it has no list `{key}`')
    for key in ('images', 'categories'):
        if not content[key]:
            raise ValueError(f'{path}: `{key}` is empty')
    names = [category['name'] for category in content['categories']]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'{path}: more than one category is called {", ".join(twice)}')
    first = osp.join(images, content['images'][0]['file_name'])
    if not osp.isfile(first):
        raise FileNotFoundError(
            f'{path} names the image {first}, which does not exist; set train_img and val_img '
            '(relative to data_root) to the folder of the images'
        )
    return names


def class_names(
    train: Sequence[str], val: Sequence[str], given: Any, where: str
) -> Tuple[str, ...]:
    """The classes to learn, in label order.

    Args:
        train: categories of the training file, in its order.
        val: likewise of the validation file.
        given: classes to use; None for all of the training file.
        where: both files, for messages.

    Raises:
        ValueError: a class is in only one file, or the orders differ. MMDetection numbers the
            labels in each file's own order, whatever the order of the names given.
    """
    wanted = list(train) if given is None else [given] if isinstance(given, str) else list(given)
    for names, split in ((train, 'training'), (val, 'validation')):
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(
                f'{where}: the {split} file has no category {", ".join(map(repr, missing))}; '
                f'it has {", ".join(map(repr, names))}'
            )
        ordered = [name for name in names if name in wanted]
        if ordered != wanted:
            raise ValueError(
                f'{where}: the {split} file lists its categories as {tuple(ordered)}, '
                f'not as {tuple(wanted)}: labels follow the file, so that both must agree'
            )
    extra = [name for name in val if name not in train]
    if given is None and extra:
        raise ValueError(
            f'{where}: the validation file has the categories {", ".join(map(repr, extra))}, '
            'which the training file lacks; give `classes` to leave them out'
        )
    return tuple(wanted)


def set_num_classes(model: ConfigDict, num_classes: int) -> None:
    """Set it in a detector config, or in student and teacher of a distillation config.

    With a `class_map` the teacher keeps its own classes; so does one that reads text.

    Raises:
        ValueError: a detector without `bbox_head`.
    """
    if 'architecture' in model:
        set_num_classes(model.architecture, num_classes)
        if model.get('class_map') is not None:
            return
        if isinstance(model.teacher, str):
            model.teacher = ConfigDict(cfg_path=model.teacher)
        from .read import detector_config  # which reads configs of data in this format

        if 'language_model' not in detector_config(model.teacher):
            set_num_classes(model.teacher, num_classes)
    elif 'cfg_path' in model:
        options = dict(model.get('options') or {})
        options['bbox_head.num_classes'] = num_classes
        model.options = ConfigDict(options)
    elif 'bbox_head' in model:
        model.bbox_head.num_classes = num_classes
    else:
        raise ValueError(
            f'coco_format: {model.get("type")} has no bbox_head to set the number of classes in'
        )


def resolve_coco_format(cfg: Config) -> None:
    """Put a config's data set into its dataloaders, evaluators and heads.

    Does nothing unless `cfg.coco_format` is true. Reads the keys `data_root`, `train_ann`,
    `train_img`, `val_ann`, `val_img` (relative to `data_root`) and `classes` (None: all those of
    the training file), so that each is one option on the command line. Testing uses the validation
    set. Calling it twice changes nothing.

    Raises:
        KeyError: one of the keys is missing.
        FileNotFoundError, ValueError: see `read_annotations` and `class_names`.
    """
    if not cfg.get('coco_format'):
        return
    missing = [key for key in PLACES if cfg.get(key) is None]
    if missing:
        raise KeyError(f'a config with coco_format=True needs {", ".join(missing)}')
    paths: Dict[str, Dict[str, str]] = {}
    names: Dict[str, List[str]] = {}
    for split in ('train', 'val'):
        ann, img = cfg[f'{split}_ann'], cfg[f'{split}_img']
        paths[split] = dict(ann=osp.join(cfg.data_root, ann), img=osp.join(cfg.data_root, img))
        names[split] = read_annotations(paths[split]['ann'], paths[split]['img'])
    where = ' and '.join(paths[split]['ann'] for split in ('train', 'val'))
    cfg.classes = class_names(names['train'], names['val'], cfg.get('classes'), where)
    for loader, split in (
        ('train_dataloader', 'train'),
        ('val_dataloader', 'val'),
        ('test_dataloader', 'val'),
    ):
        dataset = cfg[loader].dataset
        while 'dataset' in dataset:  # RepeatDataset and other wrappers
            dataset = dataset.dataset
        dataset.data_root = cfg.data_root
        dataset.ann_file = cfg[f'{split}_ann']
        dataset.data_prefix = ConfigDict(img=cfg[f'{split}_img'])
        dataset.metainfo = ConfigDict(classes=cfg.classes)
    for evaluator in ('val_evaluator', 'test_evaluator'):
        metrics = cfg[evaluator] if isinstance(cfg[evaluator], list) else [cfg[evaluator]]
        for metric in metrics:
            if 'ann_file' in metric:
                metric.ann_file = paths['val']['ann']
    set_num_classes(cfg.model, len(cfg.classes))

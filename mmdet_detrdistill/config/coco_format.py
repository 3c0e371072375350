"""One config for any data in COCO's annotation format."""

import json
import math
import os.path as osp
from collections import Counter
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from mmdet.datasets import CocoDataset
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from ..registry import class_of
from .load import detector_config

PLACES = dict(train=('train_ann', 'train_img'), val=('val_ann', 'val_img'))
LOADERS = dict(train_dataloader='train', val_dataloader='val', test_dataloader='val')


class Labels(NamedTuple):
    """The labels of an annotation file.

    Attributes:
        names: categories in the file's order, which is the order of the labels.
        objects: number of usable objects by category name.
        left_out: number of annotations that MMDetection leaves out, by reason.
        first_image: `file_name` of the first image.
        path: of the file.
    """

    names: List[str]
    objects: Dict[str, int]
    left_out: Dict[str, int]
    first_image: str
    path: str

    def describe(self, classes: Optional[Sequence[str]] = None) -> str:
        """Count the objects of the classes (None: all), and what is left out.

        Raises:
            ValueError: not one object is left.
        """
        number = sum(self.objects.get(name, 0) for name in classes or self.names)
        reasons = ''.join(f', {count} {reason}' for reason, count in self.left_out.items())
        reasons = f'; left out{reasons[1:]}' if reasons else ''
        if number == 0:
            wanted = '' if classes is None else f' of the classes {", ".join(classes)}'
            raise ValueError(f'{self.path}: no object{wanted} is labelled{reasons}')
        return f'{number} objects{reasons}'


def read_annotations(path: str, evaluated: bool = False) -> Labels:
    """Read an annotation file once, as MMDetection and COCO's evaluation will.

    Args:
        evaluated: the file is a validation set, of which COCO's evaluation reads more.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not COCO format, no images or categories, a name or id twice, a key that is
            missing or not of its kind; names file, id and key.
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
    categories = content['categories']
    _check_entries(path, 'category', categories, dict(id='', name=TEXT))
    names = [category['name'] for category in categories]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'{path}: more than one category is called {", ".join(twice)}')
    of_image = dict(id='', file_name=TEXT, width=NUMBER, height=NUMBER)
    _check_entries(path, 'image', content['images'], of_image)
    keys = dict(id='', image_id='', category_id='', bbox=BOX, area=NUMBER)
    keys.update(dict(iscrowd=NUMBER) if evaluated else {})
    _check_entries(path, 'annotation', content['annotations'], keys)
    name_of = {category['id']: category['name'] for category in categories}
    image_of = {image['id']: image for image in content['images']}
    objects: Dict[str, int] = Counter()
    left_out: Dict[str, int] = Counter()
    for annotation in content['annotations']:
        image = image_of.get(annotation['image_id'])
        reason = _reason_to_leave_out(annotation, image, set(name_of))
        if reason:
            left_out[reason] += 1
        else:
            objects[name_of[annotation['category_id']]] += 1
    return Labels(names, objects, left_out, content['images'][0]['file_name'], path)


def _check_entries(path: str, what: str, entries: List[Any], keys: Dict[str, str]) -> None:
    """Refuse the first entry that lacks a key, has another kind of value, or repeats an id."""
    seen: Set[Any] = set()
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or 'id' not in entry:
            raise ValueError(f'{path}: {what} number {place} has no `id`')
        for key, kind in keys.items():
            if key not in entry:
                hint = ' (width times height of its bbox)' if key == 'area' else ''
                raise ValueError(f'{path}: {what} {entry["id"]} has no `{key}`{hint}')
            if kind and not KINDS[kind](entry[key]):
                raise ValueError(
                    f'{path}: `{key}` of {what} {entry["id"]} must be {kind}, got {entry[key]!r}'
                )
        if entry['id'] in seen:
            raise ValueError(f'{path}: more than one {what} has the id {entry["id"]}')
        seen.add(entry['id'])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


NUMBER, BOX, TEXT = 'a number', '[x, y, width, height]', 'a text'
KINDS: Dict[str, Callable[[Any], bool]] = {
    NUMBER: _is_number,
    BOX: lambda value: isinstance(value, list) and [*map(_is_number, value)] == 4 * [True],
    TEXT: lambda value: isinstance(value, str),
}


def _reason_to_leave_out(annotation: Any, image: Any, categories: Set[Any]) -> str:
    """Say why MMDetection leaves this object out, or return ''."""
    if image is None:
        return 'of an image that is not in the file'
    if annotation['category_id'] not in categories:
        return 'of a category that is not in the file'
    if annotation.get('ignore') or annotation.get('iscrowd'):
        return 'to be ignored'
    x, y, width, height = annotation['bbox']
    inside = min(x + width, image['width']) > max(x, 0)
    inside = inside and min(y + height, image['height']) > max(y, 0)
    if not inside or annotation['area'] <= 0 or width < 1 or height < 1:
        return 'of less than a pixel or outside of the image'
    return ''


def classes_to_learn(
    train: Sequence[str], val: Sequence[str], given: Any, where: str
) -> Tuple[str, ...]:
    """Return the classes to learn, in label order.

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
    """Set it in the heads of a detector config, or in student and teacher of a distillation config.

    With a `class_map` the teacher keeps its own classes; so does one that reads text.

    Raises:
        ValueError: a detector none of whose heads has `num_classes`.
    """
    if 'architecture' in model:
        set_num_classes(model.architecture, num_classes)
        if model.get('class_map') is not None:
            return
        if isinstance(model.teacher, str):
            model.teacher = ConfigDict(cfg_path=model.teacher)
        try:
            reads_text = 'language_model' in detector_config(model.teacher)
        except FileNotFoundError:  # evaluation needs no teacher, building one says what is missing
            return
        if not reads_text:
            set_num_classes(model.teacher, num_classes)
        return
    named = 'cfg_path' in model
    config = detector_config(model) if named else model
    heads = {name: part for name, part in config.items() if name.endswith('head')}
    places = list(class_counts(heads))
    if not places:
        raise ValueError(
            f'coco_format: {model.get("type")} has no bbox_head to set the number of classes in'
        )
    if named:
        options = dict(model.get('options') or {})
        model.options = ConfigDict({**options, **dict.fromkeys(places, num_classes)})
        return
    for place in places:
        *keys, last = place.split('.')
        part = model
        for key in keys:
            part = part[int(key) if isinstance(part, list) else key]
        part[last] = num_classes


def class_counts(config: Any, place: str = '') -> Iterator[str]:
    """Dotted places of `num_classes` in nested dicts and lists."""
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        if key == 'num_classes':
            yield f'{place}{key}'
        elif isinstance(value, (dict, list)):
            yield from class_counts(value, f'{place}{key}.')


def leaf_datasets(dataset: Any) -> Iterable[ConfigDict]:
    """Return the configs of the data sets inside wrappers (repeated, joined, mixed ...)."""
    if isinstance(dataset, (list, tuple)):
        for item in dataset:
            yield from leaf_datasets(item)
    elif dataset.get('dataset') is not None or dataset.get('datasets') is not None:
        yield from leaf_datasets(dataset.get('dataset') or dataset['datasets'])
    else:
        yield dataset


def _only_dataset(loader: Any) -> ConfigDict:
    """Return the data set inside a loader's wrappers; the first of several replaces all."""
    holder = loader
    while True:
        dataset = holder.dataset
        if dataset.get('datasets') is not None:
            holder.dataset = dataset.datasets[0]
        elif dataset.get('dataset') is not None:
            holder = dataset
        else:
            return dataset


def is_coco(dataset: Any) -> bool:
    """Tell whether a data set reads its annotation file as MMDetection's `CocoDataset` does."""
    found = class_of('DATASETS', dataset)
    readers = ('load_data_list', 'parse_data_info')
    return (
        isinstance(found, type)
        and issubclass(found, CocoDataset)
        and all(getattr(found, name) is getattr(CocoDataset, name) for name in readers)
    )


def resolve_coco_format(cfg: Config) -> None:
    """Put a config's data set into its dataloaders, evaluators and heads.

    Does nothing unless `cfg.coco_format` is true. Reads the keys `data_root`, `train_ann`,
    `train_img`, `val_ann`, `val_img` (relative to `data_root`) and `classes` (None: all those of
    the training file), so that each is one option on the command line. Testing uses the validation
    set; a config that neither validates nor tests needs none. Several data sets that a loader joins
    become the one. Calling it twice changes nothing.

    Raises:
        KeyError: one of the keys is missing.
        FileNotFoundError, ValueError: see `read_annotations` and `classes_to_learn`; an image is
            not there, nothing is labelled, or a loader's data set does not read COCO's format.
    """
    if not cfg.get('coco_format'):
        return
    loaders = {name: split for name, split in LOADERS.items() if cfg.get(name)}
    splits = [split for split in PLACES if split in loaders.values()]
    places = ['data_root', *(key for split in splits for key in PLACES[split])]
    missing = [key for key in places if cfg.get(key) is None]
    if missing:
        raise KeyError(f'a config with coco_format=True needs {", ".join(missing)}')
    labels: Dict[str, Labels] = {}
    for split in splits:
        ann, images = (osp.join(cfg.data_root, cfg[key]) for key in PLACES[split])
        labels[split] = read_annotations(ann, evaluated=split == 'val')
        image = osp.join(images, labels[split].first_image)
        if not osp.isfile(image):
            raise FileNotFoundError(
                f'{ann} names the image {image}, which does not exist; set train_img and val_img '
                '(relative to data_root) to the folder of the images'
            )
    where = ' and '.join(found.path for found in labels.values())
    first, last = (labels[split].names for split in (splits[0], splits[-1]))
    cfg.classes = classes_to_learn(first, last, cfg.get('classes'), where)
    for found in labels.values():
        counted = found.describe(cfg.classes)
        if found.left_out:
            print_log(f'{found.path}: {counted}', 'current')
    for name, split in loaders.items():
        dataset = _only_dataset(cfg[name])
        if not is_coco(dataset):
            raise ValueError(
                f"{name} has a {dataset.get('type')}, which does not read COCO's format: "
                "dataset=dict(type='CocoDataset', ...)"
            )
        dataset.data_root = cfg.data_root
        dataset.ann_file, images = (cfg[key] for key in PLACES[split])
        dataset.data_prefix = ConfigDict(img=images)
        dataset.metainfo = ConfigDict(classes=cfg.classes)
    for name in ('val_evaluator', 'test_evaluator'):
        metrics = cfg.get(name) or []
        for metric in metrics if isinstance(metrics, list) else [metrics]:
            if 'ann_file' in metric:
                metric.ann_file = labels['val'].path
    set_num_classes(cfg.model, len(cfg.classes))

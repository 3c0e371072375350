"""The label numbers that a data set really uses, against the class names that it gives them."""

import json
from typing import Any, Dict, Iterator, List, Optional, Sequence

from mmengine.fileio import get_text


def check_label_numbers(dataset: Any, names: Optional[Sequence[str]], num_classes: int) -> None:
    """Refuse data whose labels do not mean what its class names say, or that a head cannot tell.

    `CocoDataset` numbers the classes in the order of the annotation file, whatever the order of
    `metainfo.classes`, and leaves out names that the file does not have.

    Args:
        dataset: a built data set; every one that it wraps is looked at.
        names: its class names in label order, None = it has none.
        num_classes: K of the head that is to learn them.

    Raises:
        ValueError: another number than the name's place, with file, class and both numbers; or more
            classes than the head has.
    """
    count = len(names or ())
    for part in _parts(dataset):
        numbers = getattr(part, 'cat2label', None) or {}
        count = max([count, *(label + 1 for label in numbers.values())])
        if names is not None:
            _compare(part, numbers, list(names))
    check_num_classes(count, num_classes)


def check_num_classes(count: int, num_classes: int) -> None:
    """Refuse data of more classes than the student's head has.

    Raises:
        ValueError: names both numbers.
    """
    if count > num_classes:
        raise ValueError(
            f'the training data has {count} classes, the head of the student {num_classes}: set '
            f'bbox_head.num_classes={count}, or name the wanted classes in metainfo.classes'
        )


def _parts(dataset: Any) -> Iterator[Any]:
    """Return the data sets inside wrappers (concatenation, repetition, class balance)."""
    wrapped = list(getattr(dataset, 'datasets', None) or [])
    if hasattr(dataset, 'dataset'):
        wrapped.append(dataset.dataset)
    for part in wrapped:
        yield from _parts(part)
    if not wrapped:
        yield dataset


def _compare(dataset: Any, numbers: Dict[Any, int], names: List[str]) -> None:
    path = str(getattr(dataset, 'ann_file', ''))
    if path.endswith('.json'):  # by category id; else, as in VOC, by name
        categories = _categories(get_text(path, backend_args=dataset.backend_args))
        numbers = {c['name']: numbers[c['id']] for c in categories if c['id'] in numbers}
    for name, label in numbers.items():
        if name in names and names.index(name) != label:
            order = tuple(sorted(numbers, key=numbers.__getitem__))
            absent = [name for name in names if name not in numbers]
            hint = f'; the file has no {absent}' if absent else ''
            raise ValueError(
                f'{path}: the objects of class {name!r} have label {label}, metainfo.classes says '
                f'{names.index(name)}: classes are numbered in the order of the file. Set '
                f'metainfo.classes={order}{hint}'
            )


def _categories(text: str) -> List[Dict[str, Any]]:
    """Read `categories` of a COCO file, without parsing its annotations if that can be avoided."""
    key = '"categories"'
    start = text.find('[', text.rfind(key) + len(key))
    try:
        found = json.JSONDecoder().raw_decode(text, start)[0]
        if all('id' in entry and 'name' in entry for entry in found):
            return list(found)
    except (ValueError, TypeError):
        pass
    return list(json.loads(text)['categories'])

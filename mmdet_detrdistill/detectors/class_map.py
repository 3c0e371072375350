"""Which class of the teacher stands for which class of the student."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor


class ClassMap(NamedTuple):
    """The pairs of both label sets.

    Attributes:
        label_map: (K_s,) int64, the teacher's label of each student label, -1 = it has none.
        student_classes: (K',) int64, the student labels that have one.
        teacher_classes: (K',) int64, the teacher's labels of those.
    """

    label_map: Tensor
    student_classes: Tensor
    teacher_classes: Tensor

    def to(self, device: torch.device) -> 'ClassMap':
        """The map on a device; itself where it is there already."""
        return ClassMap(*(labels.to(device) for labels in self))

    def student_labels(self, labels: Tensor) -> Tensor:
        """Return the student's label of each of the teacher's labels (n,), -1 = none."""
        same = labels.unsqueeze(-1) == self.label_map
        return same.long().argmax(-1).masked_fill(~same.any(-1), -1)


def make_class_map(label_map: Sequence[int], num_student: int, num_teacher: int) -> ClassMap:
    """Make the pairs from one teacher label, or -1, per student label.

    Raises:
        ValueError: wrong length, a label out of range or used twice, or none mapped at all.
    """
    labels = [int(label) for label in label_map]
    used = [label for label in labels if label >= 0]
    if len(labels) != num_student:
        raise ValueError(f'class_map names {len(labels)} classes, the student has {num_student}')
    if any(label >= num_teacher or label < -1 for label in labels):
        raise ValueError(f'class_map {labels}: labels must lie in [-1, {num_teacher - 1}]')
    if len(set(used)) != len(used) or not used:
        raise ValueError(f'class_map {labels}: each teacher class may stand for one, and one must')
    table = torch.tensor(labels, dtype=torch.long)
    return ClassMap(table, (table >= 0).nonzero().flatten(), table[table >= 0])


def give_student_labels(samples: Sequence[Any], class_map: ClassMap) -> None:
    """Give predictions of the teacher the student's labels in place; drop classes it lacks.

    Args:
        samples: `DetDataSample`s with the teacher's `pred_instances`.
    """
    for sample in samples:
        found = sample.pred_instances
        matches = found.labels.unsqueeze(-1) == class_map.teacher_classes.to(found.labels.device)
        found = found[matches.any(-1)]
        found.labels = class_map.student_classes.to(matches.device)[
            matches[matches.any(-1)].int().argmax(-1)
        ]
        sample.pred_instances = found


def class_names(meta: Union[Dict[str, Any], Sequence[Dict[str, Any]]]) -> Optional[List[str]]:
    """Return `classes` of a dataset's metainfo or a checkpoint's `dataset_meta`, or None.

    Args:
        meta: a list where MMDetection's `ConcatDataset` joins data sets of unequal metainfo.

    Raises:
        ValueError: `classes` is a string, or joined data sets have different ones.
    """
    if not isinstance(meta, dict):
        named = [names for names in map(class_names, meta) if names is not None]
        other = next((names for names in named if names != named[0]), None)
        if other is not None:
            raise ValueError(
                f'joined data sets name different classes, {named[0]} and {other}: give them all '
                'the same metainfo.classes'
            )
        return named[0] if named else None
    names = {key.lower(): value for key, value in meta.items()}.get('classes')
    if isinstance(names, str):
        raise ValueError(f'classes must be names in a tuple, got a text: write ({names!r},)')
    return None if names is None else list(names)


def map_by_name(
    student_names: Sequence[str], teacher_names: Sequence[str], renamed: Dict[str, str]
) -> List[int]:
    """Return the teacher's label of each student class by name, after `renamed`, else -1.

    Args:
        student_names: in label order; likewise `teacher_names`.
        renamed: the teacher's name of a student class, where they differ.

    Raises:
        ValueError: `renamed` names a class that is not there.
    """
    for name, teacher_name in renamed.items():
        if name not in student_names or teacher_name not in teacher_names:
            raise ValueError(
                f'class_map {name!r}: {teacher_name!r}: student classes are {list(student_names)}, '
                f'teacher classes {list(teacher_names)}'
            )
    order = {name: label for label, name in enumerate(teacher_names)}
    return [order.get(renamed.get(name, name), -1) for name in student_names]


def check_class_names(data_names: Sequence[str], teacher_names: Sequence[str]) -> None:
    """Refuse a teacher that names other classes, or in another order, than the data.

    Raises:
        ValueError: names the first class that differs.
    """
    if len(teacher_names) != len(data_names):
        raise ValueError(
            f'the teacher knows {len(teacher_names)} classes, the dataset has {len(data_names)}: '
            "set class_map='auto' to pair them by name"
        )
    for label, (name, teacher_name) in enumerate(zip(data_names, teacher_names)):
        if name != teacher_name:
            raise ValueError(
                f'class {label} is {teacher_name!r} for the teacher and {name!r} in the dataset: '
                "use the same names in the same order (metainfo.classes), or class_map='auto'"
            )


def settle_classes(model: Any, data_names: Optional[Sequence[str]]) -> str:
    """Compare the classes of teacher and data by name, or pair them as the model's option says.

    Args:
        model: a `DETRDistill`; gets its class map where the option is 'auto' or a renaming.
        data_names: of the training data, None = it names none.

    Returns:
        What was found, without a full stop.

    Raises:
        ValueError: classes differ and there is no class map, or names are needed and missing.
    """
    wanted = model.class_map_config
    if model.teacher_adapter.prompted:
        return _prompt(model, data_names, wanted)
    teacher_names = class_names(model.teacher_meta.get('dataset_meta') or {})
    if wanted is not None and not isinstance(wanted, (str, dict)):
        return f'classes are paired by the labels {[int(label) for label in wanted]}'
    if data_names is None or teacher_names is None:
        if wanted is None:
            return 'no class names to compare; their number agrees'
        side = 'the training dataset' if data_names is None else 'the teacher checkpoint'
        raise ValueError(f'class_map {wanted!r}: {side} names no classes; give a list of labels')
    if wanted is None:
        check_class_names(data_names, teacher_names)
        return 'class names agree with the dataset'
    labels = map_by_name(data_names, teacher_names, wanted if isinstance(wanted, dict) else {})
    model.set_class_map(labels)
    pairs = ', '.join(
        f'{name} <- {teacher_names[label] if label >= 0 else "nothing"}'
        for name, label in zip(data_names, labels)
    )
    return f'classes by name: {pairs}'


def _prompt(model: Any, data_names: Optional[Sequence[str]], phrases: 'ClassMapConfig') -> str:
    """Prompt the teacher with the student's classes, or with the phrase that stands for one."""
    phrases = {} if phrases in (None, 'auto') else phrases
    if not isinstance(phrases, dict):
        raise ValueError(f'class_map {phrases!r}: this teacher is prompted, give {{name: phrase}}')
    count = model.student_adapter.num_classes
    if data_names is None or len(data_names) != count:
        given = 'no class names' if data_names is None else f'{len(data_names)} class names'
        raise ValueError(
            f'the teacher is prompted with the names of the {count} student classes, the training '
            f'data has {given}: set metainfo=dict(classes=(...)) of its dataset'
        )
    unknown = [name for name in phrases if name not in data_names]
    if unknown:
        raise ValueError(f'class_map {unknown}: the classes are {list(data_names)}')
    prompt = [phrases.get(name, name) for name in data_names]
    model.teacher_adapter.set_phrases(prompt)
    return f'the teacher is prompted with {", ".join(prompt)}'


ClassMapConfig = Union[None, str, Sequence[int], Dict[str, str]]

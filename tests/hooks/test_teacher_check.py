"""Class names of the teacher's checkpoint against the data."""

import logging
from types import SimpleNamespace

import pytest

from mmdet_detrdistill import TeacherCheckHook


def runner_with(teacher_classes, data_classes):
    meta = {} if teacher_classes is None else {'dataset_meta': {'CLASSES': teacher_classes}}
    dataset = SimpleNamespace(metainfo=dict(classes=data_classes))
    return SimpleNamespace(
        model=SimpleNamespace(teacher_meta=meta, class_map_config=None, class_map=None),
        train_dataloader=SimpleNamespace(dataset=dataset),
        logger=logging.getLogger('test'),
    )


@pytest.mark.parametrize('teacher', [['a', 'b'], ('a', 'b'), None])
def test_same_names_pass(teacher):
    TeacherCheckHook().before_train(runner_with(teacher, ('a', 'b')))


def test_other_order_names_the_class():
    with pytest.raises(ValueError, match="class 1 is 'c' for the teacher and 'b'"):
        TeacherCheckHook().before_train(runner_with(('a', 'c', 'b'), ('a', 'b', 'c')))


def test_other_number_is_refused():
    with pytest.raises(ValueError, match='knows 2 classes, the dataset has 3'):
        TeacherCheckHook().before_train(runner_with(('a', 'b'), ('a', 'b', 'c')))

"""Class names of the teacher's checkpoint against the data, and its mAP."""

import logging
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.engine.hooks import MeanTeacherHook
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.structures import InstanceData

from mmdet_detrdistill import TeacherCheckHook
from mmdet_detrdistill.detectors.class_map import make_class_map
from mmdet_detrdistill.distillation import TeacherPass
from mmdet_detrdistill.hooks.teacher_check import check_names_are_given


def runner_with(teacher_classes, data_classes):
    meta = {} if teacher_classes is None else {'dataset_meta': {'CLASSES': teacher_classes}}
    dataset = SimpleNamespace(metainfo=dict(classes=data_classes))
    return SimpleNamespace(
        model=SimpleNamespace(
            teacher_meta=meta,
            class_map_config=None,
            class_map=None,
            student=object(),
            student_adapter=SimpleNamespace(num_classes=len(data_classes)),
            teacher_adapter=SimpleNamespace(prompted=False),
        ),
        cfg=Config(),
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


class Share(BaseMetric):
    """Share of the images in `img_ids` whose prediction has the label of its number, modulo 2."""

    default_prefix = 'toy'

    def __init__(self):
        super().__init__()
        self.img_ids = None

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            labels = sample['pred_instances']['labels'].tolist()
            self.results.append(labels == [sample['img_id'] % 2])

    def compute_metrics(self, results):
        assert self.img_ids is None or len(self.img_ids) == len(results)
        return dict(mAP=sum(results) / len(results))


def evaluating_runner(class_map=None):
    """Six validation images in batches of two; the teacher is right on the first three."""

    def predict(images, samples):
        torch.rand(3), np.random.rand(3), random.random()  # as a loader and a model may
        for sample in samples:
            label = sample.img_id % 2 if sample.img_id < 3 else 2
            found = InstanceData(labels=torch.tensor([label, 3]), scores=torch.ones(2))
            sample.pred_instances = found[:1] if class_map is None else found
        return samples

    samples = [DetDataSample(metainfo=dict(img_id=index)) for index in range(6)]
    dataset = [*samples]
    loader = [dict(images=None, samples=samples[i : i + 2]) for i in (0, 2, 4)]
    runner = runner_with(('a', 'b'), ('a', 'b'))
    runner.val_loop = object()
    runner.val_dataloader = Loader(loader, dataset)
    runner.val_evaluator = Evaluator([Share()])
    teacher = TeacherPass(SimpleNamespace(predict=predict, detector=SimpleNamespace(backbone=None)))
    runner.model.predict_teacher = lambda batch: teacher.predict(**batch, class_map=class_map)
    return runner


class Loader(list):
    def __init__(self, batches, dataset):
        super().__init__(batches)
        self.dataset = dataset


@pytest.mark.parametrize(('count', 'score'), [(3, 1.0), (4, 0.75), (6, 0.5), (None, 0.5)])
def test_map_of_the_first_images(count, score):
    """Right on 3 of the first 3, of 4, of 6."""
    runner = evaluating_runner()
    TeacherCheckHook(min_map=score, num_images=count).before_train(runner)
    expected = rf'reaches {score:.3f} mAP on {count or 6} validation images, below min_map=0\.99'
    if score < 0.99:
        with pytest.raises(ValueError, match=expected):
            TeacherCheckHook(min_map=0.99, num_images=count).before_train(runner)
    assert runner.val_evaluator.metrics[0].img_ids is None
    assert runner.val_evaluator.metrics[0].results == []


def test_predictions_take_the_student_s_labels():
    """The teacher's 2 is the student's 0, its 0 the student's 1; 1 and 3 are unknown to it.

    Of the teacher's 0, 1, 0, 2, 2, 2 remain 1, none, 1, 0, 0, 0: right for image 4 alone.
    """
    runner = evaluating_runner(make_class_map([2, 0], 2, 4))
    with pytest.raises(ValueError, match=re.escape('0.167 mAP on 6')):
        TeacherCheckHook(min_map=0.9).before_train(runner)


def test_random_states_are_left_alone():
    def draws():
        return random.random(), np.random.rand(), torch.rand(()).item()

    found = []
    for hook in (TeacherCheckHook(), TeacherCheckHook(min_map=0.1)):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        hook.before_train(evaluating_runner())
        found.append(draws())
    assert found[0] == found[1]


def test_min_map_needs_validation():
    with pytest.raises(ValueError, match='in'):
        TeacherCheckHook(min_map=45)
    runner = evaluating_runner()
    runner.val_loop = None
    with pytest.raises(ValueError, match='val_dataloader'):
        TeacherCheckHook(min_map=0.1).before_train(runner)


def test_in_a_training(trained):
    """CocoMetric counts the one image that was looked at, and validation counts both again."""
    assert re.search(r'The teacher reaches \d\.\d{3} mAP on 1 validation images\.', trained.output)


def test_a_constructor_that_saw_other_names_is_refused():
    runner = runner_with(('a', 'b'), ('a', 'b'))
    constructor = 'LearningRateDecayOptimizerConstructor'
    runner.cfg = Config(dict(optim_wrapper=dict(constructor=constructor)))
    with pytest.raises(ValueError, match=f'{constructor}.*tools/train.py, or'):
        TeacherCheckHook().before_train(runner)


class OwnMeanTeacherHook(MeanTeacherHook):
    """Of a user."""


@pytest.mark.parametrize(
    'key, value, message',
    [
        ('custom_hooks', [dict(type='MeanTeacherHook')], 'MeanTeacherHook needs model.semi_train'),
        ('default_hooks', dict(mean=dict(type=OwnMeanTeacherHook)), 'OwnMeanTeacherHook needs'),
        ('custom_hooks', [dict(type='SetEpochInfoHook')], 'SetEpochInfoHook needs model.set_epoch'),
        (
            'val_cfg',
            dict(type='TeacherStudentValLoop'),
            'TeacherStudentValLoop needs',
        ),
    ],
)
def test_hooks_of_other_models_are_refused(key, value, message):
    runner = runner_with(('a', 'b'), ('a', 'b'))
    runner.cfg = Config({key: value})
    with pytest.raises(ValueError, match=message):
        TeacherCheckHook().before_train(runner)
    runner.model.set_epoch = runner.model.semi_train_cfg = runner.model.semi_test_cfg = {}
    TeacherCheckHook().before_train(runner)


@pytest.mark.parametrize('class_map', [None, [0, 1], 'auto', dict(a='b')])
def test_check_asks_for_the_hook_that_pairs_by_name(class_map):
    model = runner_with(('a', 'b'), ('a', 'b')).model
    model.class_map_config = class_map
    check_names_are_given(Config(dict(custom_hooks=[dict(type='TeacherCheckHook')])), model)
    if class_map in (None, [0, 1]):
        check_names_are_given(Config(), model)
        return
    with pytest.raises(ValueError, match='TeacherCheckHook'):
        check_names_are_given(Config(), model)

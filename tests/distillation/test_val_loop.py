"""MMRazor's validation loop scores a teacher of other classes as the student is scored."""

import copy

import torch
from mmengine.structures import InstanceData

from mmdet_detrdistill.detectors.class_map import give_student_labels, make_class_map
from tests import trainings
from tests.tiny_detectors import build, sample_of

#: the student's circle, hexagon and ring are its 4, none and 0
TEACHER_CLASSES = ('ring', 'cross', 'star', 'moon', 'circle')


def test_labels_by_hand():
    """Of 4, 1, 0, 3, 4 remain 0, 2, 0, in order, with their scores."""
    sample = sample_of((9, 9), (9, 9), [], [])
    sample.pred_instances = InstanceData(
        labels=torch.tensor([4, 1, 0, 3, 4]), scores=torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    )
    give_student_labels([sample], make_class_map([4, -1, 0], 3, 5))
    assert sample.pred_instances.labels.tolist() == [0, 2, 0]
    assert torch.equal(sample.pred_instances.scores, torch.tensor([0.9, 0.7, 0.5]))


def test_training_with_a_class_map_is_validated(tmp_path):
    """A label of the teacher beyond the student's three would stop the metric."""
    trainings.draw_images(tmp_path / 'data')
    teacher = trainings.small_detector(num_layers=3)
    teacher['bbox_head']['num_classes'] = len(TEACHER_CLASSES)
    state = build(copy.deepcopy(teacher), 2).state_dict()
    meta = dict(dataset_meta=dict(classes=TEACHER_CLASSES))
    torch.save(dict(meta=meta, state_dict=state), tmp_path / 'teacher.pth')
    config = trainings.distillation(tmp_path / 'data', tmp_path / 'teacher.pth', epochs=1)
    config.model.update(teacher=teacher, class_map='auto')
    config.val_cfg = dict(type='mmrazor.SingleTeacherDistillValLoop')
    ended = trainings.run_training(config, tmp_path / 'work')
    assert ended.code == 0, ended.output
    assert 'circle <- circle, hexagon <- nothing, ring <- ring' in ended.output
    (score,) = trainings.in_logs(tmp_path / 'work', 'teacher.coco/bbox_mAP')
    assert -1 <= score <= 1

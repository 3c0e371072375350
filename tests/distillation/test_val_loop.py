"""MMRazor's validation loop scores a teacher of other classes as the student is scored."""

import torch
from mmengine.structures import InstanceData

from mmdet_detrdistill.detectors.class_map import give_student_labels, make_class_map
from tests import trainings
from tests.tiny_detectors import sample_of

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


def score_a_teacher_of_more_classes(config, folder):
    """A label of the teacher beyond the student's three would stop the metric."""
    teacher = trainings.small_detector(num_layers=3)
    teacher['bbox_head']['num_classes'] = len(TEACHER_CLASSES)
    path = trainings.save_random(folder / 'teacher_of_five.pth', teacher, TEACHER_CLASSES)
    config.model.update(teacher=teacher, teacher_ckpt=str(path), class_map='auto')
    config.val_cfg = dict(type='mmrazor.SingleTeacherDistillValLoop')


def test_training_with_a_class_map_is_validated(tmp_path):
    data = trainings.draw_images(tmp_path / 'data')
    config = trainings.distillation(data, tmp_path / 'teacher.pth', epochs=1)
    score_a_teacher_of_more_classes(config, tmp_path)
    ended = trainings.run_training(config, tmp_path / 'work')
    assert ended.code == 0, ended.output
    assert 'circle <- circle, hexagon <- nothing, ring <- ring' in ended.output
    (score,) = trainings.in_logs(tmp_path / 'work', 'teacher.coco/bbox_mAP')
    assert -1 <= score <= 1

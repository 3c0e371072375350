"""Images without labels: the data set, and the boxes that they get from the teacher."""

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from PIL import Image
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.distillation.unlabelled import PseudoLabels, UnlabelledImages
from tests.tiny_detectors import batch, build, tiny, tiny_config

THRESHOLD = 0.03  # a random teacher is sure of nothing
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs'),
]


def folder_of(path, names=('b.png', 'a.jpg', 'deeper/c.png')):
    for index, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40 + index, 30)).save(path / name)
    (path / 'notes.txt').write_text('no image')
    return path


def images_of(path, **options):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return UnlabelledImages(data_prefix=dict(img=str(path)), pipeline=PIPELINE, **options)


def test_images_of_a_folder_and_of_a_list(tmp_path):
    folder = folder_of(tmp_path / 'images')
    found = images_of(folder)
    names = [found.get_data_info(index)['img_path'] for index in range(len(found))]
    assert names == [str(folder / name) for name in ('a.jpg', 'b.png', 'deeper/c.png')]
    assert [found.get_data_info(i)['width'] for i in range(3)] == [41, 40, 42]
    sample = found[2]['data_samples']
    assert sample.unlabelled and sample.img_shape == (46, 64) and not len(sample.gt_instances)
    (tmp_path / 'list.txt').write_text('deeper/c.png\n\nb.png\n')
    listed = images_of(folder, ann_file=str(tmp_path / 'list.txt'))
    assert [listed.get_data_info(i)['width'] for i in range(len(listed))] == [42, 40]


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere does not exist'):
        images_of(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match=r'empty holds no image'):
        images_of(tmp_path / 'empty')
    folder = folder_of(tmp_path / 'images')
    (folder / 'broken.jpg').write_bytes(b'not an image')
    with pytest.raises(ValueError, match=r'images/broken\.jpg cannot be read'):
        images_of(folder)
    (folder / 'broken.jpg').unlink()
    with pytest.raises(ValueError, match='no ground truth'):
        images_of(folder, test_mode=True)
    (tmp_path / 'list.txt').write_text('gone.png\n')
    with pytest.raises(FileNotFoundError, match=r'list\.txt names .*gone\.png'):
        images_of(folder, ann_file=str(tmp_path / 'list.txt'))


def distilled(task_loss=True, threshold=0.4, class_map=None, student='deformable', losses=True):
    teacher = tiny_config('deformable', num_queries=20)
    teacher.test_cfg = dict(max_per_img=15)
    if class_map is not None:
        teacher.bbox_head.num_classes = 5
    distiller = dict(type='DETRDistiller')
    if losses:
        names = dict(logits='LogitsKDLoss', feature='FeatureKDLoss', aligned='AlignedKDLoss')
        distiller['distill_losses'] = {f'loss_{n}_kd': dict(type=t) for n, t in names.items()}
    return DETRDistill(
        tiny(student, seed=1),
        build(teacher, seed=2),
        distiller,
        class_map=class_map,
        unlabelled=dict(score_threshold=threshold, task_loss=task_loss),
    ).train()


class Answers:
    """A teacher's adapter whose predictions are given."""

    def __init__(self, *predictions):
        self.predictions = predictions

    def post_process(self, forward, samples):
        return self.predictions


def predictions(scores, labels):
    boxes = torch.arange(4.0 * len(scores)).view(-1, 4)
    return InstanceData(scores=torch.tensor(scores), labels=torch.tensor(labels), bboxes=boxes)


def mark(samples, *images):
    for image in images:
        samples[image].set_metainfo(dict(unlabelled=True))
    return samples


def test_boxes_by_hand():
    """At the threshold a box is in; the labelled image and the sample itself stay as they are."""
    samples = mark(batch()[1], 1)
    answers = Answers(predictions([0.9], [0]), predictions([0.7, 0.5, 0.49, 0.5], [2, 1, 0, 1]))
    found, count = PseudoLabels(0.5)(answers, None, samples)
    assert found[0] is samples[0] and count == 3
    assert found[1].gt_instances.labels.tolist() == [2, 1, 1]
    assert found[1].gt_instances.bboxes[:, 0].tolist() == [0, 4, 12]
    assert len(samples[1].gt_instances) == 3 and samples[1].gt_instances.labels.tolist() == [
        1,
        1,
        0,
    ]


def test_boxes_by_hand_with_a_class_map():
    """Student 0, 1, 2 are the teacher's 4, none, 1: boxes of 0, 2 and 3 are dropped."""
    model = distilled(class_map=[4, -1, 1])
    samples = mark(batch()[1], 0, 1)
    answers = Answers(predictions([0.9] * 4, [1, 4, 0, 1]), predictions([0.9, 0.9], [2, 3]))
    found, count = PseudoLabels(0.5)(answers, None, samples, model.class_map)
    assert found[0].gt_instances.labels.tolist() == [2, 0, 2]
    assert len(found[1].gt_instances) == 0 and count == 1.5


def test_more_confident_boxes_than_queries():
    """The teacher's limit holds (15 of 60 scores), and a student of 12 queries trains on them."""
    model = distilled(threshold=0.0)
    images, samples = batch()
    losses = model.loss(images, mark(samples, 0, 1))
    assert losses['unlabelled.boxes'] == 15
    total, logged = model.parse_losses(losses)
    assert torch.isfinite(total) and logged['unlabelled.boxes'] == 15


@pytest.mark.parametrize('student', ['deformable', 'deformable_two_stage', 'dino', 'dab', 'ddq'])
def test_student_loss_equals_its_own_loss_on_those_boxes(student):
    """Bit for bit, with denoising; labelled beside unlabelled."""
    model = distilled(threshold=THRESHOLD, student=student, losses=False)
    images, samples = batch()
    mark(samples, 0)
    forward = model.teacher_pass(images, samples)
    labelled, count = model.pseudo_labels(model.teacher_adapter, forward, samples)
    assert count > 0
    torch.manual_seed(0)
    expected = model.student.loss(images, labelled)
    torch.manual_seed(0)
    found = model.loss(images, samples)
    assert found.pop('unlabelled.boxes') == count
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert_close(found[name], value, rtol=0, atol=0, msg=name)


def test_teacher_that_is_asked_for_more_boxes_than_it_makes():
    model = distilled()
    model.teacher.bbox_head.test_cfg = dict(max_per_img=61)
    images, samples = batch()
    with pytest.raises(ValueError, match=r'teacher: .*61, but 20 queries give 60'):
        model.loss(images, mark(samples, 1))


def test_no_confident_box_leaves_an_image_without_objects():
    model = distilled(threshold=1.0)
    images, samples = batch()
    losses = model.loss(images, mark(samples, 0, 1))
    assert losses['unlabelled.boxes'] == 0 and losses['loss_bbox'] == 0
    assert losses['loss_cls'] > 0 and losses['loss_logits_kd.neg_bbox'] > 0


@pytest.mark.parametrize('student', ['deformable', 'deformable_two_stage', 'dino', 'dab', 'detr'])
def test_only_the_labelled_images_count_in_the_task_loss(student):
    """The student's own loss is that of the labelled image alone; without one it is 0."""
    model = distilled(task_loss=False, threshold=THRESHOLD, student=student, losses=False).eval()
    model.student.training = True  # denoising queries, but no dropout and no batch statistics
    images, samples = batch(padded=False)
    found = model.loss(images, mark(samples, 1))
    expected = model.student_adapter.task_loss(
        model.student_adapter.forward_pass(images[:1], samples[:1]), samples[:1]
    )
    for name, value in expected.items():
        if 'dn_' not in name:  # those draw noise for every object of the batch
            assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    nothing = model.loss(images, mark(samples, 0, 1))
    assert all(nothing[name] == 0 for name in expected)
    sum(nothing[name] for name in expected).backward()  # every parameter gets a zero, as DDP needs


def test_ddq_cannot_leave_images_out():
    model = distilled(task_loss=False, student='ddq')
    images, samples = batch()
    for unlabelled in ([1], [0, 1]):
        with pytest.raises(ValueError, match='DDQ'):
            model.loss(images, mark(samples, *unlabelled))


def test_threshold_outside_its_range():
    with pytest.raises(ValueError, match=r'score_threshold must lie in \[0, 1\], got 1.5'):
        PseudoLabels(1.5)


def test_teacher_labels_also_when_distillation_has_stopped():
    model = distilled()
    model.distillation_stopped = True
    images, samples = batch()
    assert 'unlabelled.boxes' in model.loss(images, mark(samples, 1))

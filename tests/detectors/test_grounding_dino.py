"""Grounding DINO as a teacher: its own prediction, any prompt, and what is refused."""

import copy

import pytest
import torch

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors import build_adapter
from mmdet_detrdistill.detectors.class_map import settle_classes
from mmdet_detrdistill.detectors.registry import build_detector
from tests.departing_detectors import GROUNDING_DINO, GROUNDING_DINO_OPTIONS, grounding_dino
from tests.tiny_detectors import batch, tiny

pytest.importorskip('transformers')
NAMES = ['cat', 'traffic_light', 'dog']


def prompted(mm=False, names=NAMES):
    adapter = build_adapter(grounding_dino(mm=mm).eval(), 'teacher')
    adapter.set_phrases(names)
    return adapter


@pytest.fixture(scope='module', params=[False, True], ids=['grounding_dino', 'mm_grounding_dino'])
def teacher(request):
    return prompted(request.param)


@pytest.mark.parametrize('kind', [dict(padded=False), dict(), dict(empty='all')], ids=str)
@torch.no_grad()
def test_scores_and_boxes_are_those_of_predict(teacher, kind):
    """Every class score of every query: `predict` is asked for all of them."""
    images, samples = batch(**kind)
    outputs = teacher.forward_pass(images, samples).outputs
    num_queries, num_classes = outputs.logits.shape[2:]
    teacher.head.test_cfg = dict(max_per_img=num_queries * num_classes)
    processed = teacher.post_process(teacher.forward_pass(images, samples), samples)
    predicted = teacher.predict(images, copy.deepcopy(samples))
    for image, sample in enumerate(predicted):
        found = sample.pred_instances
        torch.testing.assert_close(processed[image].scores, found.scores, rtol=1e-4, atol=1e-6)
        processed_boxes = processed[image].bboxes.sort(0).values
        torch.testing.assert_close(processed_boxes, found.bboxes.sort(0).values, rtol=0, atol=1e-3)
        scores, order = outputs.logits[-1, image].sigmoid().flatten().sort(descending=True)
        torch.testing.assert_close(scores, found.scores, rtol=1e-4, atol=1e-6)
        height, width = sample.img_shape
        own = torch.zeros(num_queries, num_classes)
        own[order // num_classes, order % num_classes] = scores
        box = outputs.boxes[-1, image]
        corners = torch.cat((box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2), -1)
        corners = corners * torch.tensor([width, height, width, height])
        limits = torch.tensor([width, height, width, height])
        corners = torch.minimum(corners.clamp(min=0), limits)
        # the order of equal scores is free: compare as sets, by label and box
        for label in range(num_classes):
            mine = torch.cat((own[:, label : label + 1], corners), -1)
            chosen = found.labels == label
            theirs = torch.cat((found.scores[chosen, None], found.bboxes[chosen]), -1)
            mine, theirs = (rows[rows[:, 1].argsort()] for rows in (mine, theirs))
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_the_order_of_the_prompt_is_the_order_of_the_classes(teacher):
    images, samples = batch()
    first = teacher.forward_pass(images, samples).outputs
    order = [2, 0, 1]
    other = copy.copy(teacher)
    other.set_phrases([NAMES[label] for label in order])
    second = other.forward_pass(images, samples).outputs
    torch.testing.assert_close(second.boxes, first.boxes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second.logits, first.logits[..., order], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(second.logits, first.logits, rtol=1e-4, atol=1e-4)


def test_the_text_is_encoded_once(teacher, monkeypatch):
    monkeypatch.setattr(teacher.detector.language_model, 'forward', None)
    teacher.forward_pass(*batch())


@pytest.fixture(scope='module')
def model():
    return DETRDistill(
        tiny('dino', seed=1), grounding_dino(), dict(type='DETRDistiller'), class_map=[0, 1, 2]
    )


def test_names_of_the_data_are_the_prompt_after_renaming(model, monkeypatch):
    monkeypatch.setattr(model, 'class_map_config', {'a': 'small red bird'})
    assert 'small red bird' in settle_classes(model, ['dog', 'a', 'cat'])
    assert model.teacher_adapter.phrases == ['dog', 'small red bird', 'cat']
    assert model.teacher_adapter.num_classes == 3


@pytest.mark.parametrize(
    ('class_map', 'names', 'message'),
    [
        (None, None, 'no class names'),
        (None, ['cat', 'dog'], '2 class names'),
        (None, ['cat', 'dog', 'zebra'], "matches class 'zebra'"),
        (None, ['cat', 'dog', '(x)'], 'matches class'),
        ({'bird': 'red'}, NAMES, "'bird'"),
        ([0, 1, 2], NAMES, 'prompted'),
        (None, ['cat ' * 90, 'dog ' * 90, 'bird ' * 90], 'tokens'),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(model, monkeypatch, class_map, names, message):
    monkeypatch.setattr(model, 'class_map_config', class_map)
    with pytest.raises(ValueError, match=message):
        settle_classes(model, names)


def test_without_names_the_first_pass_says_where_they_come_from():
    with pytest.raises(RuntimeError, match='TeacherCheckHook'):
        build_adapter(grounding_dino(), 'teacher').forward_pass(*batch())


def test_it_is_no_student():
    with pytest.raises(TypeError, match='only be a teacher'):
        build_adapter(grounding_dino(), 'student')


CONFIG = dict(cfg_path=GROUNDING_DINO, options=GROUNDING_DINO_OPTIONS)


def test_without_transformers_the_extra_is_named(monkeypatch):
    from mmdet.models.language_models import bert

    monkeypatch.setattr(bert, 'AutoTokenizer', None)
    with pytest.raises(ImportError, match=r'mmdet_detrdistill\[text\]'):
        build_detector(CONFIG, 'teacher')


@pytest.mark.parametrize('name', ['no/such/folder', 'no-such-bert'])
def test_a_language_model_that_is_nowhere_is_named(monkeypatch, name):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    options = {**GROUNDING_DINO_OPTIONS, 'language_model.name': name}
    with pytest.raises(FileNotFoundError, match=r'language_model\.name'):
        build_detector(dict(CONFIG, options=options), 'teacher')

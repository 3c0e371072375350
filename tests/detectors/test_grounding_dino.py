"""Grounding DINO as a teacher: its own prediction, any prompt, and what is refused."""

import copy

import pytest
import torch
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors import build_adapter
from mmdet_detrdistill.detectors.class_map import settle_classes
from mmdet_detrdistill.detectors.registry import build_detector
from mmdet_detrdistill.functional.boxes import cxcywh_to_xyxy
from tests.departing_detectors import (
    GROUNDING_DINO,
    GROUNDING_DINO_OPTIONS,
    grounding_dino,
    language_model,
)
from tests.detectors.test_parity import BATCHES
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


@pytest.mark.parametrize('kind', BATCHES)
@torch.no_grad()
def test_scores_and_boxes_are_those_of_predict(teacher, kind):
    """Every class score of every query: `predict` is asked for all of them."""
    images, samples = batch(**BATCHES[kind])
    forward = teacher.forward_pass(images, samples)
    num_queries, num_classes = forward.outputs.logits.shape[2:]
    teacher.head.test_cfg = dict(max_per_img=num_queries * num_classes)
    processed = teacher.post_process(forward, samples)
    predicted = teacher.predict(images, copy.deepcopy(samples))
    for image, sample in enumerate(predicted):
        found, (height, width) = sample.pred_instances, sample.img_shape
        size = torch.tensor([width, height] * 2)
        own = InstanceData(
            scores=forward.outputs.logits[-1, image].sigmoid().flatten(),
            labels=torch.arange(num_classes).repeat(num_queries),
            bboxes=(
                cxcywh_to_xyxy(forward.outputs.boxes[-1, image]).clamp(0, 1) * size
            ).repeat_interleave(num_classes, 0),
        )
        check_same_objects(own, found, size)
        check_same_objects(processed[image], found, size)


def check_same_objects(own, found, size):
    """Compare label, score and box of all; their order is free, since scores can be equal."""
    rows, others = (
        torch.cat((o.labels[:, None], o.scores[:, None], o.bboxes / size), -1) for o in (own, found)
    )
    distances = torch.cdist(rows, others, p=float('inf'))
    assert distances.shape[0] == distances.shape[1]
    assert distances[linear_sum_assignment(distances)].max() < 1e-5


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
        (None, ['cat', 'dog', 'gnu'], "matches class 'gnu'"),
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


OPTIONS = {**GROUNDING_DINO_OPTIONS, 'language_model.name': language_model()}
CONFIG = dict(cfg_path=GROUNDING_DINO, options=OPTIONS)


@pytest.mark.parametrize('installed', ['nothing', 'transformers 5'])
def test_without_transformers_the_extra_is_named(monkeypatch, installed):
    from mmdet.models.language_models import bert

    if installed == 'nothing':
        monkeypatch.setattr(bert, 'AutoTokenizer', None)
    else:
        monkeypatch.delattr('transformers.PreTrainedTokenizerBase.batch_encode_plus')
    with pytest.raises(ImportError, match=r'mmdet_detrdistill\[text\]'):
        build_detector(CONFIG, 'teacher')


@pytest.mark.parametrize('name', ['no/such/folder', 'no-such-bert'])
def test_a_language_model_that_is_nowhere_is_named(monkeypatch, name):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    options = {**OPTIONS, 'language_model.name': name}
    with pytest.raises(FileNotFoundError, match=r'language_model\.name'):
        build_detector(dict(CONFIG, options=options), 'teacher')

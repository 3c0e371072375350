"""The code of docs/new_detector.md, run as it stands, and stock subclasses that need no code."""

import copy
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from mmdet.models.detectors import DINO
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill, build_adapter
from mmdet_detrdistill.detectors import DetectorAdapter
from tests.tiny_detectors import batch, build, tiny, tiny_config

PAGE = (Path(__file__).parents[1] / 'docs' / 'new_detector.md').read_text()
TOY, ADAPTER, LOSS, RULE, CONFIG = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
LOSSES = dict(
    loss_logits_kd=dict(type='LogitsKDLoss'),
    loss_feature_kd=dict(type='FeatureKDLoss'),
    loss_assign_kd=dict(type='AssignKDLoss'),
)


@MODELS.register_module()
class MyDINO(DINO):
    """Changes nothing."""


@pytest.fixture(scope='module')
def my_detectors(tmp_path_factory):
    """The page's code as the module that its config imports."""
    path = tmp_path_factory.mktemp('doc') / 'my_detectors.py'
    path.write_text(TOY + ADAPTER + LOSS + RULE)
    spec = importlib.util.spec_from_file_location('my_detectors', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def point_detr(seed, **options):
    config = tiny_config('detr', width=64, **options)
    config.type = 'PointDETR'
    return build(config, seed)


def distiller_of_the_page(my_detectors, monkeypatch):
    monkeypatch.setitem(sys.modules, 'my_detectors', my_detectors)
    return Config.fromstring(CONFIG, '.py').distiller


def test_adapter_and_rule_take_about_thirty_lines():
    code = [line for line in (ADAPTER + RULE).splitlines() if line.strip()]
    assert len(code) <= 33


def test_walk_equals_the_detectors_own_loss(my_detectors):
    detector = point_detr(1).train()
    images, samples = batch()
    torch.manual_seed(0)
    expected = detector.loss(images, copy.deepcopy(samples))
    torch.manual_seed(0)
    adapter = build_adapter(detector)
    assert type(adapter) is my_detectors.PointAdapter
    found = adapter.task_loss(adapter.forward_pass(images, samples), samples)
    assert list(found) == list(expected)
    for name, value in found.items():
        assert_close(value, expected[name], rtol=0, atol=0, msg=name)


def test_a_loss_of_its_own_is_part_of_the_distillation(my_detectors):
    """The page's second detector: its own loss, bit for bit, with the term that it adds."""
    config = tiny_config('detr', width=64)
    config.type = 'SparseDETR'
    student = build(config, 1).train()
    images, samples = batch()
    torch.manual_seed(0)
    expected = student.loss(images, copy.deepcopy(samples))
    assert expected['loss_sparse'] > 0
    model = DETRDistill(student, tiny('detr', 2, width=64), dict(type='DETRDistiller')).train()
    torch.manual_seed(0)
    found = model.loss(images, samples)
    assert list(found) == list(expected)
    for name, value in found.items():
        assert_close(value, expected[name], rtol=0, atol=0, msg=name)


def test_random_queries_take_no_part(my_detectors):
    adapter = build_adapter(point_detr(1, num_queries=12).train())
    outputs = adapter.forward_pass(*batch()).outputs
    assert outputs.logits.shape[2] == outputs.boxes.shape[2] == outputs.hidden_states.shape[2] == 12
    assert outputs.head_outputs[0].shape[2] == 24


@pytest.mark.parametrize('teacher', ['detr', 'deformable'])
def test_toy_student_takes_a_step(my_detectors, monkeypatch, teacher):
    """With all losses; the injected points are the centres of the teacher's boxes."""
    student, teacher = point_detr(1), tiny(teacher, 2, width=96, num_queries=15)
    model = DETRDistill(student, teacher, distiller_of_the_page(my_detectors, monkeypatch)).train()
    rules = {type(rule) for rule in model.distiller.injections.values()}
    assert rules == {my_detectors.CentreInjection}
    seen = []
    student.embed_points.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    images, samples = batch(empty='one')
    total, terms = model.parse_losses(model.loss(images, samples))
    with torch.no_grad():
        boxes = model.teacher_adapter.forward_pass(images, samples).outputs.boxes[-1]
    assert_close(seen[-1], boxes[..., :2])
    assert len(seen) == 2  # its own points, and one pass for both losses
    assert terms['loss_aligned_kd.neg_bbox'] > 0
    total.backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    assert torch.isfinite(total)
    assert student.query_embedding.weight.grad.abs().sum() > 0


def test_rule_refuses_by_name(my_detectors, monkeypatch):
    distiller = distiller_of_the_page(my_detectors, monkeypatch)
    with pytest.raises(ValueError, match='CentreInjection: its queries are not points'):
        DETRDistill(tiny('detr', 1), tiny('detr', 2), distiller)


def test_queries_of_the_parent_are_not_taken_for_points(my_detectors):
    distiller = dict(type='DETRDistiller', distill_losses=LOSSES)
    with pytest.raises(ValueError, match="kind 'position', not 'learned point'"):
        DETRDistill(point_detr(1), tiny('detr', 2), distiller)
    DETRDistill(point_detr(1), point_detr(2), distiller)


@pytest.mark.parametrize('default_scope', ['mmdet', 'mmrazor', None])
def test_rule_is_found_from_any_scope(my_detectors, monkeypatch, default_scope):
    distiller = distiller_of_the_page(my_detectors, monkeypatch)
    with DefaultScope.overwrite_default_scope(default_scope):
        DETRDistill(point_detr(1), tiny('detr', 2), distiller)


def test_stock_subclass_needs_nothing():
    """class MyDINO(DINO): losses equal DINO's with the same weights, bit for bit."""
    losses = []
    for kind in ('DINO', 'MyDINO'):
        config = tiny_config('dino')
        config.type = kind
        model = DETRDistill(
            build(config, 1), tiny('dino', 2), dict(type='DETRDistiller', distill_losses=LOSSES)
        ).train()
        assert type(model.student_adapter) is DetectorAdapter
        torch.manual_seed(0)
        losses.append(model.loss(*batch()))
    assert list(losses[0]) == list(losses[1])
    for name, value in losses[0].items():
        assert_close(losses[1][name], value, rtol=0, atol=0, msg=name)

"""A detector is run as its parent only where nothing that it overrides would be missing."""

import pytest
import torch
from mmdet.models.dense_heads import DDQDETRHead, DETRHead, DINOHead
from mmdet.models.detectors import DDQDETR, DETR, DINO, GroundingDINO
from mmdet.registry import MODELS

from mmdet_detrdistill.detectors import DetectorAdapter, build_adapter, register_adapter, registry
from tests.tiny_detectors import batch, build, tiny_config


def subclass(parent, **methods):
    """A registered class of a new name below `parent`."""
    name = f'Sub{parent.__name__}{"".join(methods)}'
    return MODELS.register_module(module=type(name, (parent,), methods), force=True)


def call_parent(parent, method):
    """An override that adds nothing."""
    return lambda self, *args, **kwargs: getattr(parent, method)(self, *args, **kwargs)


def detector_of(cls, variant, head=None):
    config = tiny_config(variant)
    config.type = cls.__name__
    if head is not None:
        config.bbox_head.type = head.__name__
    return build(config)


@pytest.fixture
def own_adapters(monkeypatch):
    """Registrations of a test end with it."""
    monkeypatch.setattr(registry, '_ADAPTERS', dict(registry._ADAPTERS))


@pytest.mark.parametrize(
    ('parent', 'variant'), [(DETR, 'detr'), (DINO, 'dino'), (DDQDETR, 'ddq')], ids=lambda v: str(v)
)
@pytest.mark.parametrize('method', ['loss', 'forward', 'forward_transformer', 'parse_losses'])
def test_overridden_method_of_a_student_is_refused_by_name(parent, variant, method):
    cls = subclass(parent, **{method: call_parent(parent, method)})
    detector = detector_of(cls, variant)
    with pytest.raises(
        TypeError, match=f'{cls.__name__}.{method} is an override.*register_adapter'
    ):
        build_adapter(detector)
    below = subclass(cls)
    with pytest.raises(TypeError, match=f'student {below.__name__}: {cls.__name__}.{method}'):
        build_adapter(detector_of(below, variant))


def test_overridden_loss_of_a_student_s_head_is_refused_by_name():
    head = subclass(DINOHead, loss=call_parent(DINOHead, 'loss'))
    detector = detector_of(DINO, 'dino', head)
    with pytest.raises(TypeError, match=f'{head.__name__}.loss is an override'):
        build_adapter(detector)


def test_overrides_that_are_called_need_nothing():
    """The stages, loss_by_feat, prediction; and DDQ's head, whose loss its adapter calls."""
    for method in ('extract_feat', 'pre_decoder', 'predict', '_forward'):
        cls = subclass(DINO, **{method: call_parent(DINO, method)})
        assert type(build_adapter(detector_of(cls, 'dino'))) is DetectorAdapter
    head = subclass(DINOHead, loss_by_feat=call_parent(DINOHead, 'loss_by_feat'))
    build_adapter(detector_of(DINO, 'dino', head))
    head = subclass(DDQDETRHead, loss=call_parent(DDQDETRHead, 'loss'))
    build_adapter(detector_of(DDQDETR, 'ddq', head))


def test_a_teacher_may_have_another_loss():
    """Only its forward pass counts."""
    head = subclass(DINOHead, loss=call_parent(DINOHead, 'loss'))
    cls = subclass(DINO, loss=call_parent(DINO, 'loss'))
    build_adapter(detector_of(cls, 'dino', head), 'teacher')
    cls = subclass(DINO, forward_transformer=call_parent(DINO, 'forward_transformer'))
    with pytest.raises(TypeError, match='teacher SubDINOforward_transformer: '):
        build_adapter(detector_of(cls, 'dino'), 'teacher')


def test_an_adapter_of_its_own_vouches_for_a_detector(own_adapters):
    cls = subclass(DINO, loss=call_parent(DINO, 'loss'))
    adapter = register_adapter(cls.__name__)(type('OwnAdapter', (DetectorAdapter,), {}))
    assert type(build_adapter(detector_of(cls, 'dino'))) is adapter
    head = subclass(DINOHead, loss=call_parent(DINOHead, 'loss'))
    with pytest.raises(TypeError, match=r'SubDINOHeadloss\.loss'):  # its task_loss is the parent's
        build_adapter(detector_of(cls, 'dino', head))
    adapter.task_loss = lambda self, forward, samples: {}
    build_adapter(detector_of(cls, 'dino', head))


def test_grounding_dino_is_no_dino(monkeypatch):
    adapters = {k: v for k, v in registry._ADAPTERS.items() if k != GroundingDINO.__name__}
    monkeypatch.setattr(registry, '_ADAPTERS', adapters)
    detector = object.__new__(type('Prompted', (GroundingDINO,), {}))
    torch.nn.Module.__init__(detector)
    detector.bbox_head = DETRHead.__new__(DETRHead)
    for side in ('student', 'teacher'):
        with pytest.raises(TypeError, match=f'{side} Prompted: GroundingDINO.'):
            build_adapter(detector, side)


@pytest.mark.parametrize(('parent', 'variant'), [(DINO, 'dino'), (DETR, 'detr')])
def test_a_pre_decoder_that_passes_everything_on(parent, variant):
    """`def pre_decoder(self, *args, **kwargs)` below a parent that takes, or does not, samples."""
    cls = subclass(parent, pre_decoder=call_parent(parent, 'pre_decoder'))
    adapters = [build_adapter(detector_of(kind, variant).train()) for kind in (parent, cls)]
    images, samples = batch()
    losses = []
    for adapter in adapters:
        torch.manual_seed(0)
        losses.append(adapter.task_loss(adapter.forward_pass(images, samples), samples))
    for name, value in losses[0].items():
        assert torch.equal(value, losses[1][name]), name

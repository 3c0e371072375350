"""A teacher that was trained on differently preprocessed images."""

import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.distillation.preprocessing import renormalisation
from tests.tiny_detectors import build, tiny, tiny_config

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
UNIT_RGB = dict(mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=True)
PREPROCESSORS = {
    'imagenet rgb': IMAGENET,
    'imagenet bgr': dict(mean=IMAGENET['mean'][::-1], std=IMAGENET['std'][::-1]),
    'unit rgb, grey padding': dict(UNIT_RGB, pad_value=0.447),
    'raw bgr, padded by 114': dict(pad_value=114),
    'one mean for all channels': dict(mean=[120.0], std=[60.0], bgr_to_rgb=True),
}


def raw_batch():
    """Two BGR images of two sizes, so that one is padded, as a dataloader gives them."""
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for height, width in ((80, 100), (96, 128)):
        shape = (3, height, width)
        inputs.append(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))
        meta = dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
        samples.append(DetDataSample(metainfo=meta))
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.parametrize('student', PREPROCESSORS)
@pytest.mark.parametrize('teacher', PREPROCESSORS)
def test_batch_becomes_what_the_teacher_would_make(student, teacher):
    """Padding included; equal preprocessors leave the batch alone."""
    sides = [DetDataPreprocessor(**PREPROCESSORS[name]) for name in (student, teacher)]
    made, wanted = (side(raw_batch()) for side in sides)
    renormalise = renormalisation(*sides)
    if student == teacher:
        assert renormalise is None
        return
    before = made['inputs'].clone()
    found = renormalise(made['inputs'], made['data_samples'])
    scale = wanted['inputs'].abs().max()
    torch.testing.assert_close(found / scale, wanted['inputs'] / scale, rtol=0, atol=1e-6)
    torch.testing.assert_close(made['inputs'], before, rtol=0, atol=0, msg='the student keeps its')


def with_preprocessor(variant, options, seed):
    config = tiny_config(variant)
    config.data_preprocessor = dict(type='DetDataPreprocessor', **options)
    return build(config, seed)


def test_teacher_predicts_as_on_its_own_pipeline():
    """Unit RGB in a distillation with an ImageNet BGR student, padded batch: 1e-5."""
    student = with_preprocessor('deformable', PREPROCESSORS['imagenet bgr'], 1)
    teacher = with_preprocessor('deformable', UNIT_RGB, 2)
    model = DETRDistill(student, teacher, dict(type='DETRDistiller')).eval()
    batch = model.data_preprocessor(raw_batch())
    found = model.teacher_pass(batch['inputs'], batch['data_samples']).outputs
    alone = teacher.data_preprocessor(raw_batch())
    with torch.no_grad():
        expected = model.teacher_adapter.forward_pass(alone['inputs'], alone['data_samples'])
    torch.testing.assert_close(found.logits, expected.outputs.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.boxes, expected.outputs.boxes, rtol=0, atol=1e-5)


class Sharpened(DetDataPreprocessor):
    """Does more than normalise."""


def test_preprocessor_that_does_more_is_refused():
    """Also the one that the distillation itself is given; equal settings need no change."""
    student = DetDataPreprocessor(**IMAGENET)
    with pytest.raises(ValueError, match=r"the teacher's Sharpened may do more.*DetDataPre"):
        renormalisation(student, Sharpened(**UNIT_RGB))
    assert renormalisation(student, Sharpened(**IMAGENET)) is None
    with pytest.raises(ValueError, match="the student's Sharpened"):
        DETRDistill(
            tiny('detr'),
            tiny('detr'),
            dict(type='DETRDistiller'),
            data_preprocessor=Sharpened(**UNIT_RGB),
        )


def test_other_number_of_channels_is_refused():
    config = tiny_config('detr')
    config.backbone.in_channels = 1
    with pytest.raises(ValueError, match='images of 3 channels, the teacher of 1'):
        DETRDistill(tiny('detr'), build(config), dict(type='DETRDistiller'))

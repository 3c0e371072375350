"""Two processes on the CPU with `find_unused_parameters=False`."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.functional.assign_kd import assign_kd
from mmdet_detrdistill.losses.base import reduce_count
from tests.functional.cases import aligned_kd, feature_kd, logits_kd
from tests.ranks import join_group, on_two_ranks
from tests.tiny_detectors import batch, build, tiny_config

KINDS = {
    'loss_logits_kd': 'LogitsKDLoss',
    'loss_feature_kd': 'FeatureKDLoss',
    'loss_assign_kd': 'AssignKDLoss',
    'loss_aligned_kd': 'AlignedKDLoss',
}
# student and teacher variant, options of the student, preset
PAIRS = {
    'sigmoid-paper': ('deformable', {}, 'paper'),
    'sigmoid-released': ('deformable', {}, 'released'),
    'softmax-paper': ('detr', {}, 'paper'),
    'softmax-released': ('detr', {}, 'released'),
    'other_width-paper': ('deformable', dict(width=128), 'paper'),
    'shared_boxes-paper': ('dab', {}, 'paper'),
}
SHARED = [
    dict(type='auto'),
    dict(type='RandomBoxInjection', num_queries=5),
    dict(type='GroundTruthBoxInjection', num_queries=5),
]
OBJECTS = ('none', 'one')  # no image without objects; the first image, that of rank 0


def make_algorithm(variant, options, preset, student_seed=1):
    """In float64 and without anything random: no dropout, no denoising, fixed batch statistics."""
    losses = {name: dict(type=kind, preset=preset) for name, kind in KINDS.items()}
    del losses['loss_aligned_kd']['preset']
    if variant == 'dab':
        losses['loss_aligned_kd']['injection'] = SHARED
    if preset == 'released':
        losses['loss_logits_kd']['contrast_weight'] = 0.2
    student, teacher = tiny_config(variant, **options), tiny_config(variant)
    for model in (student, teacher):
        model.backbone.norm_eval = True
        model.bbox_head.sync_cls_avg_factor = True  # MMDetection's DETR does not by default
    algorithm = DETRDistill(
        build(student, student_seed),
        build(teacher, 2),
        dict(type='DETRDistiller', distill_losses=losses),
    ).double()
    generator = torch.Generator().manual_seed(3)
    for detector in (algorithm.architecture, algorithm.teacher):
        detector.positional_encoding.register_forward_hook(lambda *call: call[-1].double())
        for module in detector.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
        # fresh sampling points lie on pixel centres, where bilinear sampling has a kink
        for name, parameter in detector.named_parameters():
            if 'sampling_offsets' in name:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.data.add_(0.05 * noise)
    return algorithm.train()


def double_batch(empty):
    images, samples = batch(empty=empty)
    for sample in samples:
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.double()
    return images.double(), samples


def named_sums(algorithm, model, images, samples):
    """Of one batch: the student's own losses, each distillation loss, all of them."""
    losses = {
        name: sum(value) if isinstance(value, list) else value
        for name, value in model(images, samples, mode='loss').items()
        if 'loss' in name
    }
    sums = {}
    for name, value in losses.items():
        kind = name.split('.')[0] if name.startswith(tuple(KINDS)) else 'student'
        sums[kind] = sums.get(kind, 0) + value
    return {**sums, 'all': sum(losses.values())}


def gradient(total, algorithm):
    """One vector, all parameters one after the other."""
    parameters = [p for p in algorithm.parameters() if p.requires_grad]
    parts = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, parts)]
    )


def ddp_gradient(algorithm, model, images, samples):
    """Of all losses, averaged over the ranks by DDP itself."""
    algorithm.zero_grad()
    named_sums(algorithm, model, images, samples)['all'].backward()
    return torch.cat([p.grad.flatten() for p in algorithm.parameters() if p.requires_grad])


def whole_and_halves(rank):
    """By case, the gradient of rank 0 with the whole batch, alone, and of both with one half."""
    torch.set_default_dtype(torch.float64)
    algorithms = {name: make_algorithm(*PAIRS[name]) for name in PAIRS}
    cases = [(name, empty) for name in PAIRS for empty in OBJECTS]
    whole, halves = {}, {}
    if rank == 0:
        for name, empty in cases:
            algorithm = algorithms[name]
            sums = named_sums(algorithm, algorithm, *double_batch(empty))
            for wanted, total in sums.items():
                whole[name, wanted, empty] = gradient(total, algorithm)
            whole[name, 'all, by DDP', empty] = whole[name, 'all', empty]
            whole[name, 'stopped, by DDP', empty] = whole[name, 'student', empty]
    join_group(rank)
    for name, empty in cases:
        algorithm = algorithms[name]
        images, samples = double_batch(empty)
        own = images[rank : rank + 1], samples[rank : rank + 1]
        for wanted, total in named_sums(algorithm, algorithm, *own).items():
            half = gradient(total, algorithm)
            torch.distributed.all_reduce(half)
            halves[name, wanted, empty] = half / 2
        wrapped = DistributedDataParallel(algorithm, find_unused_parameters=False)
        for wanted in ('all, by DDP', 'stopped, by DDP'):
            algorithm.distillation_stopped = 'stopped' in wanted
            halves[name, wanted, empty] = ddp_gradient(algorithm, wrapped, *own)
        algorithm.distillation_stopped = False
    return {case: (whole[case], halves[case]) for case in whole}


@pytest.fixture(scope='module')
def by_case(tmp_path_factory):
    return on_two_ranks(whole_and_halves, tmp_path_factory.mktemp('gradients'))[0]


@pytest.mark.parametrize('empty', OBJECTS)
@pytest.mark.parametrize('wanted', ['student', *KINDS, 'all', 'all, by DDP', 'stopped, by DDP'])
@pytest.mark.parametrize('pair', PAIRS)
def test_two_ranks_with_half_a_batch_equal_one_with_the_whole(by_case, pair, wanted, empty):
    """Within 1e-6 of the largest entry; MMDetection's losses add 1.2e-7 to each normaliser."""
    whole, halves = by_case[pair, wanted, empty]
    largest = float(whole.abs().max())
    assert largest > 1e-3
    assert_close(halves, whole, rtol=0, atol=1e-6 * largest)


def function_terms(options, images, sizes, counts, reduce):
    """All terms of the functional layer for some images of a fixed set of three.

    Args:
        images: indices; `sizes`: (H, W) of the padded map that this process has.
        counts: objects per image.
    """
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.rand(3, *shape, generator=generator, dtype=torch.float64)

    leaves = dict(logits=draw(2, 6, 3), boxes=0.2 + 0.5 * draw(2, 6, 4), feats=draw(4, 8, 8))
    for leaf in leaves.values():
        leaf.requires_grad_()
    teacher_logits, teacher_boxes = draw(2, 6, 3), 0.2 + 0.5 * draw(2, 6, 4)
    teacher_feats, queries, quality = draw(4, 8, 8), draw(1, 6, 4), draw(1, 6)
    objects, labels = 0.2 + 0.5 * draw(2, 4), torch.arange(2).expand(3, 2)
    assignment = torch.full((3, 2, 6), -1)
    for image, count in enumerate(counts):
        assignment[image, :, :count] = torch.arange(count)
    extents = [(8, 4), (5, 8), (6, 6)]  # what the images fill of an 8 x 8 map
    valid = torch.zeros(3, 8, 8, dtype=torch.bool)
    for image, (height, width) in enumerate(extents):
        valid[image, :height, :width] = True

    def staged(tensor):
        return tensor[images].transpose(0, 1)

    logits, boxes = staged(leaves['logits']), staged(leaves['boxes'])
    teacher = staged(teacher_logits), staged(teacher_boxes), staged(assignment) >= 0
    height, width = sizes
    terms = dict(
        **logits_kd(logits, boxes, *teacher, reduce=reduce, **options['logits']),
        aligned=sum(aligned_kd(logits, boxes, *teacher, reduce=reduce).values()),
        assign=sum(
            assign_kd(
                logits,
                boxes,
                staged(assignment),
                [labels[i, : counts[i]] for i in images],
                [objects[i, : counts[i]] for i in images],
                reduce=reduce,
            ).values()
        ),
        feature=feature_kd(
            [leaves['feats'][images][..., :height, :width]],
            [teacher_feats[images][..., :height, :width]],
            staged(queries),
            staged(quality),
            [valid[images][..., :height, :width]],
            reduce=reduce,
            **options['feature'],
        ),
    )
    return torch.autograd.grad(
        sum(value for name, value in terms.items() if name != 'entropy'), list(leaves.values())
    )


FUNCTION_OPTIONS = {
    'paper': dict(logits={}, feature={}),
    'released': dict(
        logits=dict(matching='joint', negative_cls=True),
        feature=dict(similarity='cosine', mask='summed'),
    ),
}
OBJECT_COUNTS = [(0, 2, 1), (0, 1, 0), (0, 0, 0)]


def functions_on_unequal_ranks(rank):
    """Rank 0 has one image on a map 8 x 4, rank 1 two on 6 x 8; the whole batch is 8 x 8."""
    join_group(rank)
    images, sizes = [([0], (8, 4)), ([1, 2], (6, 8))][rank]
    found = {}
    for name, options in FUNCTION_OPTIONS.items():
        for counts in OBJECT_COUNTS:
            grads = function_terms(options, images, sizes, counts, reduce_count)
            for gradient in grads:  # as DDP does
                torch.distributed.all_reduce(gradient)
                gradient /= 2
            found[name, counts] = grads
    return found


@pytest.fixture(scope='module')
def functions(tmp_path_factory):
    return on_two_ranks(functions_on_unequal_ranks, tmp_path_factory.mktemp('functions'))[0]


@pytest.mark.parametrize('counts', OBJECT_COUNTS)
@pytest.mark.parametrize('options', FUNCTION_OPTIONS)
def test_padding_and_batch_size_of_the_ranks_do_not_matter(functions, options, counts):
    """Other padded sizes, one image against two, one object or none in the whole batch."""
    whole = function_terms(FUNCTION_OPTIONS[options], [0, 1, 2], (8, 8), counts, reduce_count)
    for found, gradient in zip(functions[options, counts], whole):
        assert_close(found, gradient, rtol=0, atol=1e-12)


def steps_on_unlike_batches(rank, unlabelled):
    """Four steps; rank 0 sees no object and a wider batch; the last two without distillation.

    If asked, one image of rank 0 and all of rank 1 are unlabelled and in no task loss.
    """
    join_group(rank)
    losses = {name: dict(type=kind) for name, kind in KINDS.items()}
    teacher = tiny_config('dino')
    teacher.test_cfg = dict(max_per_img=10)
    model = DETRDistill(
        build(tiny_config('dino'), 1),
        build(teacher, 2),
        dict(type='DETRDistiller', distill_losses=losses),
        unlabelled=dict(score_threshold=0.03, task_loss=False),
    ).train()
    wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=1e-4)
    for step in range(4):  # a step raises if a parameter went unused in the one before
        model.distillation_stopped = step >= 2
        images, samples = batch(empty='all' if rank == 0 else 'none', seed=rank)
        for sample in samples[-rank - 1 :] if unlabelled else []:
            sample.set_metainfo(dict(unlabelled=True))
        if rank == 0:
            images = nn.functional.pad(images, (0, 32))
            for sample in samples:
                sample.set_metainfo(dict(batch_input_shape=(96, 160), pad_shape=(96, 160)))
        optimizer.zero_grad()
        model.parse_losses(wrapped(images, samples, mode='loss'))[0].backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize('unlabelled', [False, True])
def test_ranks_agree_without_objects_and_after_the_stop(tmp_path, unlabelled):
    """Both ranks hold the same finite weights after steps on unlike batches; no teacher's."""
    first, second = on_two_ranks(steps_on_unlike_batches, tmp_path, unlabelled)
    parameters = [name for name in first if 'running' not in name and 'batches' not in name]
    assert parameters and not any('teacher' in name for name in parameters)
    for name in parameters:
        assert first[name].isfinite().all(), name
        assert_close(first[name], second[name], rtol=0, atol=0, msg=name)

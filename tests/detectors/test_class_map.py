"""Teachers with other classes: values by hand and by the reference, names, and what is refused."""

import copy
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch.testing import assert_close

from mmdet_detrdistill import AssignKDLoss, DETRDistill, LogitsKDLoss, TeacherCheckHook
from mmdet_detrdistill.detectors import DecoderOutputs
from mmdet_detrdistill.detectors.class_map import make_class_map, map_by_name
from mmdet_detrdistill.detectors.pair import DistillPair
from tests.expected import expected_terms, logged
from tests.stepping import synthetic_batch
from tests.tiny_detectors import batch, build, tiny, tiny_config

KINDS = {'logits': 'LogitsKDLoss', 'feature': 'FeatureKDLoss'}
INJECTED = {'assign': 'AssignKDLoss', 'aligned': 'AlignedKDLoss'}
#: 5 classes of the teacher, 3 of the student, whose second is unknown to the teacher
LABELS = [3, -1, 0]
NAMES = ('cat', 'unicorn', 'dog')
TEACHER_NAMES = ('dog', 'car', 'bus', 'cat', 'tree')


def sized(variant, num_classes, seed=0):
    config = tiny_config(variant, width=64)
    config.bbox_head.num_classes = num_classes
    return build(config, seed)


def distill(student, teacher, class_map, kinds=KINDS):
    losses = {f'loss_{name}_kd': dict(type=kind) for name, kind in kinds.items()}
    distiller = dict(type='DETRDistiller', distill_losses=losses)
    return DETRDistill(student, teacher, distiller, class_map=class_map).eval()


def entropy(*probs):
    return -sum(p * math.log(p) for p in probs)


def one_query_pair(student, teacher, label_map, num_student, num_teacher):
    """One image and query with the same box on both sides; logits as given, (activation, [C])."""
    box = torch.tensor([0.5, 0.5, 0.2, 0.2]).view(1, 1, 1, 4)
    passes, sides = [], []
    for activation, logits in (student, teacher):
        logits = torch.tensor(logits).view(1, 1, 1, -1)
        outputs = DecoderOutputs(None, logits, box, None, {}, ())
        passes.append(SimpleNamespace(outputs=outputs))
        sides.append(SimpleNamespace(activation=activation))
    class_map = make_class_map(label_map, num_student, num_teacher)
    pair = DistillPair(*sides, *passes, [], class_map)
    pair.teacher_assignment = torch.zeros(1, 1, 1, dtype=torch.long)
    return pair


SIGMOID_TEACHER = ('sigmoid', [math.log(3), 5.0, -3.0, 0.0])  # 0.75 for class 0, 0.5 for class 3
SOFTMAX_TEACHER = ('softmax', [math.log(p) for p in (0.25, 0.1, 0.05, 0.5, 0.1)])  # last: none
BY_HAND = [
    # The student's own scores are 0.5 each. Its class 0 is the teacher's 3 (0.5), its class 2 the
    # teacher's 0 (0.75); class 1, at 0.99, counts nowhere: 0 + (ln 2 - H(0.75)).
    ('sigmoid', SIGMOID_TEACHER, math.log(2) - entropy(0.75, 0.25)),
    # 0.5 and 0.25 of the softmax: 0 + (ln 2 - H(0.25)).
    ('sigmoid', SOFTMAX_TEACHER, math.log(2) - entropy(0.25, 0.75)),
    # Over three logits, all 0 (two classes and background): ln 3 - H(0.5, 0.25, rest 0.25).
    ('softmax', SOFTMAX_TEACHER, math.log(3) - entropy(0.5, 0.25, 0.25)),
    # Foreground 0.75 shared out as 0.5 : 0.75, that is 0.3 and 0.45.
    ('softmax', SIGMOID_TEACHER, math.log(3) - entropy(0.3, 0.45, 0.25)),
]


@pytest.mark.parametrize(('activation', 'teacher', 'expected'), BY_HAND)
def test_value_by_hand(activation, teacher, expected):
    logits = [0.0, 7.0, 0.0] + ([0.0] if activation == 'softmax' else [])
    pair = one_query_pair((activation, logits), teacher, [3, -1, 0], 3, 4)
    assert_close(LogitsKDLoss()(pair)['cls'], torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_other_order_by_hand():
    """Same scores under permuted labels: no divergence; in label order there is one."""
    own, other = ('sigmoid', [1.0, 2.0, 3.0]), ('sigmoid', [3.0, 1.0, 2.0])
    permuted = LogitsKDLoss()(one_query_pair(own, other, [1, 2, 0], 3, 3))
    as_they_are = LogitsKDLoss()(one_query_pair(own, other, [0, 1, 2], 3, 3))
    assert_close(permuted['cls'], torch.tensor(0.0), atol=1e-6, rtol=0)
    assert as_they_are['cls'] > 0.1


@pytest.mark.parametrize(
    ('label_map', 'num_teacher'),
    [([2, 0, 1], 3), ([4, 1, 2], 5), (LABELS, 5), ([-1, 1, -1], 3)],
    ids=['other order', 'teacher has more', 'unknown to the teacher', 'one shared'],
)
@pytest.mark.parametrize(
    ('student', 'teacher', 'levels'),
    [
        ('deformable', 'deformable', [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ('detr', 'detr', [(0, 0)]),
        ('deformable', 'detr', [(2, 0)]),
        ('detr', 'deformable', [(0, 2)]),
    ],
)
def test_equals_reference_with_reindexed_logits(student, teacher, levels, label_map, num_teacher):
    kinds = {**KINDS, **INJECTED} if student == teacher else KINDS
    model = distill(sized(student, 3, 1), sized(teacher, num_teacher, 2), label_map, kinds)
    model.student_adapter.task_loss = lambda *args: {}  # not in eval mode
    images, samples = batch()
    found = logged(model, images, samples)
    expected = expected_terms(
        model, images, samples, levels=levels, variant=student, label_map=label_map
    )
    assert set(found) == set(expected)
    for name, value in found.items():
        wanted = expected[name].to(value.dtype)
        assert_close(value, wanted, rtol=1e-4, atol=1e-5, msg=f'{name}: {value}, not {wanted}')


@pytest.mark.parametrize('preset', ['paper', 'released'])
@pytest.mark.parametrize('variant', ['deformable', 'detr'])
def test_unmapped_class_gets_no_target(variant, preset):
    """Neither its logit a gradient, nor its objects a query of the teacher."""
    model = distill(sized(variant, 3, 1), sized(variant, 5, 2), LABELS, {**KINDS, **INJECTED})
    images, samples = batch()  # labels 0, 2 and 1, 1, 0
    pair = DistillPair(
        model.student_adapter,
        model.teacher_adapter,
        model.student_adapter.forward_pass(images, samples),
        model.teacher_adapter.forward_pass(images, samples),
        samples,
        model.class_map,
        model.distiller.injections,
    )
    for image, given in enumerate(([0, 1], [2])):
        for stage in pair.teacher_assignment[:, image]:
            assert stage[stage >= 0].sort().values.tolist() == given

    logits = pair.student_forward.outputs.logits
    loss = LogitsKDLoss(preset=preset)(pair)
    (gradient,) = torch.autograd.grad(loss['cls'], logits)
    assert gradient[..., 1].abs().sum() == 0
    assert all(gradient[..., label].abs().sum() > 0 for label in (0, 2))

    answers = model.distiller.pair_losses['loss_aligned_kd'].injected_pass(pair).logits
    aligned = model.distiller.pair_losses['loss_aligned_kd'](pair)
    (gradient,) = torch.autograd.grad(aligned['cls'] + aligned['neg_cls'], answers)
    assert gradient[..., 1].abs().sum() == 0
    assert all(gradient[..., label].abs().sum() > 0 for label in (0, 2))


@pytest.mark.parametrize('variant', ['deformable', 'detr', 'dino', 'ddq'])
def test_objects_of_an_unmapped_class_are_not_unlearned(variant):
    """No query of the teacher pushes its channel; the box terms and the other channels learn."""
    model = DETRDistill(
        tiny(variant, 1),
        tiny(variant, 2),
        dict(type='DETRDistiller', distill_losses=dict(loss_assign_kd=dict(type='AssignKDLoss'))),
        class_map=[1, -1, 0],
    ).train()
    images, samples = batch()
    for sample in samples:
        sample.gt_instances.labels[1:] = 1  # 1 and 2 of 5 objects are left
    pair = DistillPair(
        model.student_adapter,
        model.teacher_adapter,
        model.student_adapter.forward_pass(images, samples),
        model.teacher_adapter.forward_pass(images, samples),
        samples,
        model.class_map,
        model.distiller.injections,
    )
    loss = model.distiller.pair_losses['loss_assign_kd']
    logits = loss.injected_pass(pair).logits
    (gradient,) = torch.autograd.grad(loss(pair)['cls'], logits)
    assert gradient[..., 1].abs().sum() == 0
    assert all(gradient[..., label].abs().sum() > 0 for label in (0, 2))
    released = AssignKDLoss(preset='released')
    released.rules = loss.rules
    (gradient,) = torch.autograd.grad(released(pair)['cls'], loss.injected_pass(pair).logits)
    assert gradient[..., 1].min() < 0  # matched anew, so that they are taught


@pytest.mark.parametrize(
    ('label_map', 'message'),
    [
        ([0, 1], 'names 2 classes, the student has 3'),
        ([0, 1, 1], 'each teacher class may stand for one'),
        ([0, 1, 5], r'must lie in \[-1, 4\]'),
        ([0, 1, -2], r'must lie in \[-1, 4\]'),
        ([-1, -1, -1], 'one must'),
        ('by_name', "must be 'auto'.*got 'by_name'"),
    ],
)
def test_impossible_map_is_refused_when_built(label_map, message):
    with pytest.raises(ValueError, match=message):
        distill(sized('detr', 3), sized('detr', 5), label_map)


@pytest.mark.parametrize('renamed', [{'horse': 'dog'}, {'unicorn': 'zebra'}])
def test_unknown_name_is_refused_with_both_lists(renamed):
    with pytest.raises(ValueError, match=r"\['cat', 'unicorn', 'dog'\].*\['dog', 'car'"):
        map_by_name(NAMES, TEACHER_NAMES, renamed)


class Images(torch.utils.data.Dataset):
    """Two images with a class list, as MMEngine's data sets have it."""

    def __init__(self, names):
        self.metainfo = {} if names is None else dict(classes=names)
        data = synthetic_batch((2, 1), num_classes=3)
        self.rows = [
            dict(inputs=image, data_samples=sample)
            for image, sample in zip(data['inputs'], data['data_samples'])
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def train(folder, class_map, names=NAMES, teacher_names=TEACHER_NAMES, hooks=True):
    """One iteration of a real runner; the model afterwards."""
    config = tiny_config('detr', width=64)
    config.bbox_head.num_classes = 5
    state = build(copy.deepcopy(config), 2).state_dict()
    meta = {} if teacher_names is None else dict(dataset_meta=dict(classes=teacher_names))
    torch.save(dict(meta=meta, state_dict=state), folder / 'teacher.pth')
    losses = dict(loss_logits_kd=dict(type='LogitsKDLoss'))
    model = DETRDistill(
        sized('detr', 3, 1),
        config,
        dict(type='DETRDistiller', distill_losses=losses),
        teacher_ckpt=str(folder / 'teacher.pth'),
        class_map=class_map,
    )
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Images(names),
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=2,
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-4)),
        custom_hooks=[dict(type='TeacherCheckHook')] if hooks else None,
        default_scope='mmdet',
        default_hooks=dict(checkpoint=None),
        log_level='ERROR',
        experiment_name=folder.name,
    )
    runner.train()
    return model


@pytest.mark.parametrize(
    ('class_map', 'labels'),
    [
        ('auto', [3, -1, 0]),
        (dict(unicorn='tree'), [3, 4, 0]),
        (dict(unicorn='cat', cat='car'), [1, 3, 0]),
        ([2, 0, -1], [2, 0, -1]),
    ],
)
def test_map_of_a_real_run(tmp_path, class_map, labels):
    model = train(tmp_path, class_map)
    assert model.class_map.label_map.tolist() == labels
    assert model.class_map.teacher_classes.tolist() == [label for label in labels if label >= 0]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(names=None), 'training dataset names no classes'),
        (dict(teacher_names=None), 'teacher checkpoint names no classes'),
        (dict(names=('zebra', 'unicorn', 'gnu')), 'one must'),
        (dict(names=('cat', 'dog')), 'names 2 classes, the student has 3'),
        (dict(class_map=dict(unicorn='zebra')), "'unicorn': 'zebra'"),
        (dict(class_map=dict(unicorn='dog')), 'each teacher class may stand for one'),
    ],
)
def test_names_that_do_not_do_stop_the_run(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, **{'class_map': 'auto', **options})


def test_names_without_the_hook_stop_the_run(tmp_path):
    with pytest.raises(RuntimeError, match='TeacherCheckHook'):
        train(tmp_path, 'auto', hooks=False)


def test_list_needs_no_hook():
    model = distill(tiny('detr', 1), tiny('detr', 2), [2, 0, 1])
    assert model.class_map.label_map.tolist() == [2, 0, 1]


def test_hook_leaves_a_list_alone():
    model = distill(tiny('detr', 1), tiny('detr', 2), [2, 0, 1])
    runner = SimpleNamespace(
        model=model,
        cfg=Config(),
        train_dataloader=SimpleNamespace(dataset=Images(NAMES)),
        logger=logging.getLogger('test'),
    )
    TeacherCheckHook().before_train(runner)
    assert model.class_map.label_map.tolist() == [2, 0, 1]

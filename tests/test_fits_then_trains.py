"""What tools/check.py says of a user's config holds in training: FITS trains, the rest is refused.

Each case is checked and then trained for an epoch of three iterations, with the validation after
it. Cases of one kind share the number at the beginning of their names.
"""

import copy
import math
import re
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, NamedTuple, Optional

import cv2
import numpy as np
import pytest
from mmdet.models.dense_heads import DINOHead
from mmdet.models.detectors import DINO
from mmdet.registry import MODELS
from mmengine.config import Config

from mmdet_detrdistill.api import write_config
from mmdet_detrdistill.config.coco_format import resolve_coco_format
from mmdet_detrdistill.config.write import DATA_KEYS
from tests import trainings
from tests.check.test_smallest import shrink_images
from tests.config.test_coco_format import CATEGORIES, IMPERFECT, write_split
from tests.departing_detectors import SHAPES
from tests.detectors.test_label_numbers import WRAPPERS
from tests.detectors.test_levels import PATCHES
from tests.detectors.test_registry import call_parent, subclass
from tests.distillation.test_distiller import CWD, MALFORMED, MAPPED
from tests.distillation.test_optimizer import BY_NAME, LAYER_DECAY
from tests.distillation.test_preprocessing import UNIT_RGB, Sharpened
from tests.distillation.test_val_loop import score_a_teacher_of_more_classes
from tests.faults.inputs import with_data
from tests.pure_python import pure_python
from tests.test_faults_of_users import TEACHER_CLASSES, use_patches
from tests.tiny_detectors import tiny_config
from tests.tools.test_distill import distill, options_for, save_random_teacher
from tests.tools.test_stock_configs import CONFIGS
from tests.trainings import CLASSES, save_random, small_detector

MODELS.register_module(module=Sharpened)
METHODS = ('loss', 'forward_transformer', 'pre_decoder')
OWN = {name: subclass(DINO, **{name: call_parent(DINO, name)}) for name in METHODS}
OWN['head'] = subclass(DINOHead, loss=call_parent(DINOHead, 'loss'))


class Case(NamedTuple):
    """A config, and what is said of it.

    Attributes:
        change: turns the base config and a place (`data`, `teacher`, `folder`) into the case, in
            place, or returns another config or the path of one.
        verdict: 'fits', or a pattern of the reason with which check and training refuse it.
        training: where check alone refuses: a pattern of what the training says.
    """

    change: Callable[[Config, Any], Any]
    verdict: str = 'fits'
    training: Optional[str] = None


CASES = {}
TRAINS = r'(?s)Epoch\(train\) +\[1\]\[3/3\].*Exit 0$'


def case(name, verdict='fits', training=None, **options):
    """Add the decorated function to `CASES`, called with these options."""

    def add(change):
        assert name not in CASES, name
        CASES[name] = Case(partial(change, **options), verdict, training)
        return change

    return add


def set_values(config, place, values):
    """By dotted names, of the model after a dot; a dict is merged unless it has `_delete_`."""
    values = {f'model.{name[1:]}' if name[0] == '.' else name: v for name, v in values.items()}
    config.merge_from_dict(copy.deepcopy(values))


REPLACE = dict(_delete_=True)
LOOP = dict(REPLACE, type='IterBasedTrainLoop', max_iters=3, val_interval=3)
MANY = {'.architecture.test_cfg.max_per_img': 100}
OUR_DISTILLER = dict(type='DETRDistiller', distill_losses=dict(loss_feature_kd=CWD), **MAPPED)
NORMALISED = dict(type='DetDataPreprocessor', **UNIT_RGB)
DECAYED = {'.architecture.backbone.type': 'TinyConvNeXt', 'optim_wrapper': LAYER_DECAY}
ONE_NAME = {'train_dataloader.dataset.metainfo.classes': 'circle'}
PARTS = ('dataloader', 'evaluator', 'cfg')
UNHOOKED = {'.class_map': 'auto', 'custom_hooks': []}
CHECKS_TEACHER = dict(type='TeacherCheckHook')
NO_VALIDATION = {f'{split}_{part}': None for split in ('val', 'test') for part in PARTS}
VALUES = [
    *(
        (f'7 {hook}', dict(custom_hooks=[CHECKS_TEACHER, dict(type=hook)]), f'{hook} needs model')
        for hook in ('MeanTeacherHook', 'SetEpochInfoHook')
    ),
    ('7 two students', {'val_cfg.type': 'TeacherStudentValLoop'}, 'ValLoop needs model'),
    ('0 the base', {}),
    ('4 layer decay', {**DECAYED, 'optim_wrapper.optimizer.weight_decay': 0.1}),
    ('4 layer decay without decay', DECAYED, 'optimizer.weight_decay, 0', 'TypeError'),
    ('4 a constructor by names', dict(optim_wrapper=BY_NAME)),
    ('9 VOCMetric', dict(val_evaluator=dict(REPLACE, type='VOCMetric', metric='mAP'))),
    ('9 prefix, classwise', {'val_evaluator.prefix': 'mine', 'val_evaluator.classwise': True}),
    ('9 iteration-based', dict(train_cfg=LOOP)),
    ('10 no validation', NO_VALIDATION),
    ('13 one class name without a comma', ONE_NAME, r"\('circle',\)"),
    ('13 a hook that is switched off', {'default_hooks.stability': None}),
    ('13 too many predictions', MANY, 'max_per_img', r'(?s)\[3/3\].*index k out of range'),
    ('15 no distiller', {'.distiller': None}, 'distiller must be dict'),
    ('15 an empty distiller', {'.distiller': REPLACE}, 'distiller must be dict'),
    ('15 MMRazor', {'.distiller.type': 'ConfigurableDistiller'}, 'distiller must be dict'),
    ('15 a mapped MMRazor loss', {'.distiller': dict(REPLACE, **OUR_DISTILLER)}),
    ('15 no train_cfg', {'.architecture.train_cfg': None}, 'train_cfg is missing'),
    ('15 a misspelt package', {'.teacher': 'mmdett::a/b.py'}, "no package 'mmdett'"),
    ('15 AMP on a CPU', {'optim_wrapper.type': 'AmpOptimWrapper'}, 'AmpOptimizerWrapper'),
    ('16 by name, no hook', UNHOOKED, "needs dict.type='TeacherCheckHook'", 'needs class names'),
    ('16 an unknown class by number', {'.class_map': [0, -1, 2]}),
    ('17 another normalisation', {'.data_preprocessor': NORMALISED}),
    ('17 a sharpener', {'.data_preprocessor': dict(UNIT_RGB, type='Sharpened')}, 'may do more'),
]
for number, (entry, loss, message) in enumerate(MALFORMED):
    loss = dict(REPLACE, **loss) if isinstance(loss, dict) else loss
    values = {'.distiller.distill_losses': {entry: loss}}
    VALUES.append((f'15 malformed entry {number}', values, message))
for name, values, *said in VALUES:
    case(name, *said, values=values)(set_values)


@case('1 one level of patches at 64', sides=[64], variant='dab')
@case('1 one level of patches at 70', sides=[70], variant='dab')
@case('1 one level of patches at 93', sides=[93], variant='dab')
@case('1 patches at 64', sides=[64])
@case('1 patches at 70', sides=[70])
@case('1 patches at 93', sides=[93])
@case('1 patches at 64, 70 and 93', sides=[64, 70, 93])
def _(config, place, sides, variant='deformable'):
    student = config.model.architecture
    if variant == 'dab':
        student = config.model.architecture = detector('dab')
    use_patches(config, sides)
    if variant == 'dab':
        student.update(backbone=dict(PATCHES, out_indices=(3,)))
        student.neck.in_channels = [32]


def detector(variant, num_layers=2):
    """With every level of the stock detector."""
    model = tiny_config(variant, width=32, num_layers=num_layers)
    model.test_cfg = dict(max_per_img=10)
    return model


NO_HEXAGN = r"class 'ring' have label 1, .* has no \['hexagn'\]"


@case('2 reversed', "class 'circle' have label 0", names=CLASSES[::-1], class_map='auto')
@case('2 misspelt', NO_HEXAGN, names=('circle', 'hexagn', 'ring'), class_map={'hexagn': 'hexagon'})
@case('13 eight classes for a head of three', '8 classes, the head', names=SHAPES)
@case('16 an unknown class by name', names=CLASSES, class_map='auto', known=TEACHER_CLASSES)
def _(config, place, names, class_map=None, known=CLASSES):
    config.train_dataloader.dataset.metainfo.classes = names
    config.model.class_map = class_map
    path = save_random(place.folder / 'random.pth', config.model.teacher, known)
    config.model.teacher_ckpt = str(path)


@case('3 a pure Python teacher', side='teacher')
@case('3 a pure Python student', side='architecture')
def _(config, place, side):
    path = place.folder / 'side.py'
    path.write_text(pure_python(Config(dict(model=config.model[side]))))
    config.model[side] = str(path)


@case('3 a pure Python distillation')
@case('3 distill.py with a pure Python student', written=True)
def _(config, place, written=False):
    student, teacher, made = (place.folder / f'{name}.py' for name in ('own', 'teacher', 'made'))
    teacher.write_text(pure_python(Config(dict(model=config.model.teacher))))
    config.model = config.model.architecture if written else config.model
    student.write_text(pure_python(config))
    paths = map(str, (student, teacher, place.teacher))
    return write_config(*paths, out=str(made)) if written else student


@case('5 a copied config', copied=True)
@case('5 a config of MMDetection', copied=False)
def _(config, place, copied):
    name = 'dino/dino-4scale_r50_8xb2-12e_coco.py'
    for folder in ('_base_', 'dino') if copied else ():
        shutil.copytree(CONFIGS / folder, place.folder / folder)
    student = str(place.folder / name) if copied else f'mmdet::{name}'
    command = [student, '--teacher', student, *options_for('dino', place.data)]
    options = distill.build_parser().parse_args(command).cfg_options
    made, teacher = (str(place.folder / name) for name in ('made.py', 'random.pth'))
    write_config(student, student, teacher, data_root=str(place.data), options=options, out=made)
    resolved = Config.fromfile(made)
    resolve_coco_format(resolved)
    save_random_teacher(resolved, teacher)
    return made


def wrap(config, place, wrapper):
    config.train_dataloader.dataset = WRAPPERS[wrapper](config.train_dataloader.dataset)


for name in WRAPPERS:
    case(f'5 data set, wrapper: {name}', wrapper=name)(wrap)


@case('6 load_from a plain student')
@case('6 load_from a student of other classes', num_classes=5)
@case('6 load_from a teacher', 'does not fit the student', num_layers=3)
def _(config, place, num_classes=3, num_layers=2):
    model = small_detector(num_layers=num_layers)
    model.bbox_head.num_classes = num_classes
    config.load_from = str(save_random(place.folder / 'start.pth', model))


@case("7 YOLOX's hook, with Mosaic")
def _(config, place):
    inner = config.train_dataloader.dataset
    inner.pipeline, last = inner.pipeline[:2], inner.pipeline[2:]
    steps = [dict(type='Mosaic', img_scale=(32, 32)), *last]
    wrapped = dict(type='MultiImageMixDataset', dataset=inner, pipeline=steps)
    config.train_dataloader.dataset = wrapped
    config.custom_hooks.append(dict(type='YOLOXModeSwitchHook', num_last_epochs=1))
    config.train_cfg.max_epochs = 3


@case('8 a scored teacher of more classes')
def _(config, place):
    score_a_teacher_of_more_classes(config, place.folder)


def write_imperfect(config, place, changes):
    for split, given in (('train', changes), ('val', {})):
        write_split(place.folder, split, **{'categories': CATEGORIES, **given})
        config[f'{split}_ann'], config[f'{split}_img'] = f'annotations/{split}.json', f'{split}/'
    config.update(coco_format=True, data_root=str(place.folder))


for number, (changes, message) in enumerate(IMPERFECT):
    case(f'10 imperfect file {number}', f'train.json: {message}', changes=changes)(write_imperfect)


@case('10 a ConcatDataset, --data-root', wrapper='concatenated')
@case('10 no validation, --data-root', values=NO_VALIDATION)
@case('13 one class as a word, --data-root', names='ring', values={'.class_map': 'auto'})
def _(config, place, wrapper='none', values=(), names=CLASSES):
    set_values(config, place, dict(values))
    config.update({**DATA_KEYS, 'classes': names}, coco_format=True, data_root=str(place.data))
    wrap(config, place, wrapper)


NO_CROWD = r"(?s)\[3/3\].*KeyError: 'iscrowd'"


@case('10 unknown categories', 'no object', TRAINS, changes=dict(category_id=999))
@case('10 unknown images', 'no object', TRAINS, changes=dict(image_id=999))
@case('10 no area', 'has no `area`', "KeyError: 'area'", changes=dict(area=None))
@case('10 one id', 'more than one annotation has the id', 'are not unique', changes=dict(id=9))
@case('10 no iscrowd', 'has no `iscrowd`', NO_CROWD, changes=dict(iscrowd=None), split='val')
def _(config, place, changes, split='train'):
    """Changed in every annotation; None removes a key."""

    def edit(content, images):
        for annotation in content['annotations']:
            annotation.update(changes)
            for key in [key for key, value in annotation.items() if value is None]:
                del annotation[key]

    return with_data(place, place.folder, edit, split)


@case('11 one channel', channels=1, color='grayscale')
@case('11 four channels', channels=4, color='unchanged')
def _(config, place, channels, color):
    shutil.copytree(place.data, place.folder / 'data')
    config = trainings.distillation(place.folder / 'data', place.teacher, epochs=1)
    for path in (place.folder / 'data').rglob('*.png'):
        image = cv2.imread(str(path))
        cv2.imwrite(str(path), np.dstack((image, image[..., :1])) if channels == 4 else image)
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.dataset.pipeline[0].color_type = color
    for model in (config.model.architecture, config.model.teacher):
        model.backbone.in_channels = channels
        model.data_preprocessor = dict(type='DetDataPreprocessor', mean=[0.0], std=[1.0])
    return config


@case('12 a coarsest level of one pixel')
def _(config, place):
    config.model.architecture = detector('deformable')
    config.model.teacher = detector('deformable', num_layers=3)


ROOM = r'images of \(16, 16\) pixels give 6 feature pixels, the teacher DINO picks 12'


@case('13 two stages with room', sides=[128, 64])
@case('13 two stages without room', ROOM, sides=[16])
@case('13 two stages without room at times', ROOM, ROOM, sides=[128, 16])
def _(config, place, sides):
    shrink_images(config, sides)


@case('14 a loss', 'SubDINOloss.loss is an override', own='loss')
@case('14 a forward_transformer', 'forward_transformer is an override', own='forward_transformer')
@case("14 a head's loss", 'SubDINOHeadloss.loss is an override', own='head')
@case('18 pre_decoder(*args, **kwargs)', own='pre_decoder')
def _(config, place, own):
    config = trainings.distillation(place.data, place.teacher, 'dino', epochs=1)
    student = config.model.architecture
    part = student.bbox_head if own == 'head' else student
    part.type = OWN[own].__name__
    return config


NO_MASK = r'(?s)\[3/3\].*IndexError'


@case('18 DDQ with two decoder layers', num_layers=2)
@case('18 DDQ with one decoder layer', 'cannot predict with a DDQDETR', NO_MASK, num_layers=1)
def _(config, place, num_layers):
    config = trainings.distillation(place.data, place.teacher, 'ddq', epochs=1)
    config.model.architecture = small_detector('ddq', num_layers)
    return config


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    """Six images to train on, and a teacher."""
    folder = tmp_path_factory.mktemp('shared')
    data = trainings.draw_images(folder / 'data', train_size=6)
    return dict(data=data, teacher=trainings.save_teacher(folder / 'teacher.pth'))


@pytest.mark.sweep
@pytest.mark.parametrize('name', CASES)
def test_verdict(name, shared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    change, verdict, training = CASES[name]
    place = SimpleNamespace(folder=tmp_path, **shared)
    config = trainings.distillation(place.data, place.teacher, epochs=1)
    teacher = copy.deepcopy(config.model.teacher)
    path = change(config, place) or config
    if isinstance(path, Config):
        config, path = path, tmp_path / 'case.py'
        changed = isinstance(config.model.teacher, dict) and config.model.teacher != teacher
        if changed and config.model.teacher_ckpt == str(place.teacher):
            path_of_teacher = save_random(tmp_path / 'random.pth', config.model.teacher)
            config.model.teacher_ckpt = str(path_of_teacher)
        config.custom_imports.imports.append(__name__)
        config.dump(path)
    capsys.readouterr()
    code = trainings.load_tool('check').main([str(path), '--device', 'cpu'])
    out, err = capsys.readouterr()
    ended = trainings.run_tool('train', [str(path), '--work-dir', 'work'], tmp_path / 'train.log')
    said = f'{ended.output}\nExit {ended.code}'
    if verdict == 'fits':
        assert (code, err, out.endswith('FITS\n')) == (0, '', True)
        assert ended.code == 0, said
        values = trainings.in_logs(Path('work'), 'loss')
        assert len(values) >= 3 and all(map(math.isfinite, values))
        return
    assert code == 1 and 'FITS' not in out
    assert re.search(verdict, err), err
    assert re.search(training or verdict, said), said
    if training is None:
        assert ended.code == 1 and 'Epoch(train)' not in said

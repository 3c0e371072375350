"""A label has the number that the data set gives it, and the name of that number."""

import copy
import json
import re

import pytest
from mmdet.registry import DATASETS
from mmengine.registry import DefaultScope

from mmdet_detrdistill.detectors.class_map import class_names
from mmdet_detrdistill.detectors.label_numbers import check_label_numbers
from tests import trainings
from tests.trainings import CLASSES

CATEGORIES = [dict(id=7, name='circle'), dict(id=3, name='hexagon'), dict(id=5, name='ring')]
WRAPPERS = {
    'none': lambda dataset: dataset,
    'repeated': lambda dataset: dict(type='RepeatDataset', times=2, dataset=dataset),
    'balanced': lambda dataset: dict(
        type='ClassBalancedDataset', oversample_thr=0.1, dataset=dataset
    ),
    'concatenated': lambda dataset: dict(type='ConcatDataset', datasets=[dataset, dataset]),
    'mixed': lambda dataset: dict(
        type='MultiImageMixDataset',
        pipeline=[],
        dataset=dict(type='RepeatDataset', times=2, dataset=dataset),
    ),
}


def annotations(folder, categories=CATEGORIES, name='train.json', **more):
    """A COCO file with one object of each class."""
    images = [dict(id=1, file_name='1.png', width=64, height=64)]
    boxes = [
        dict(id=i, image_id=1, category_id=c['id'], bbox=[1, 1, 9, 9], area=81, iscrowd=0)
        for i, c in enumerate(categories)
    ]
    content = dict(categories=categories, images=images, annotations=boxes, **more)
    (folder / name).write_text(json.dumps(content))
    return str(folder / name)


def dataset_of(path, classes, wrap='none', kind='CocoDataset'):
    config = dict(type=kind, ann_file=path, metainfo=dict(classes=classes), pipeline=[])
    config['data_prefix'] = dict(img='')
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(WRAPPERS[wrap](config))


@pytest.mark.parametrize('wrap', WRAPPERS)
def test_the_order_of_the_file_passes(tmp_path, wrap):
    path = annotations(tmp_path)
    check_label_numbers(dataset_of(path, CLASSES, wrap), CLASSES, 3)


@pytest.mark.parametrize('wrap', WRAPPERS)
def test_another_order_is_refused_with_file_class_and_both_numbers(tmp_path, wrap):
    """MMDetection gives a circle label 0, whatever place its name has."""
    path = annotations(tmp_path)
    classes = CLASSES[::-1]
    message = (
        f"{path}: the objects of class 'circle' have label 0, metainfo.classes says 2: classes are "
        f'numbered in the order of the file. Set metainfo.classes={CLASSES}'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        check_label_numbers(dataset_of(path, classes, wrap), classes, 3)


def test_a_misspelt_name_shifts_the_labels_after_it(tmp_path):
    path = annotations(tmp_path)
    classes = ('circle', 'hexagn', 'ring')
    message = r"class 'ring' have label 1, .* says 2: .*; the file has no \['hexagn'\]"
    with pytest.raises(ValueError, match=message):
        check_label_numbers(dataset_of(path, classes), classes, 3)


def test_some_classes_of_a_file(tmp_path):
    path = annotations(tmp_path)
    for classes, fits in ((('circle', 'ring'), True), (('ring', 'circle'), False)):
        dataset = dataset_of(path, classes)
        if fits:
            check_label_numbers(dataset, classes, 2)
        else:
            with pytest.raises(ValueError, match=r"'circle' have label 0, .* says 1"):
                check_label_numbers(dataset, classes, 2)


def test_every_concatenated_part_is_compared(tmp_path):
    """The second file has another order than the first."""
    first = annotations(tmp_path)
    second = annotations(tmp_path, CATEGORIES[::-1], 'second.json')
    parts = [dataset_of(path, CLASSES) for path in (first, second)]
    whole = type('Whole', (), dict(datasets=parts))
    with pytest.raises(ValueError, match=r"second\.json: the objects of class 'ring' have label 0"):
        check_label_numbers(whole, CLASSES, 3)


def test_names_of_joined_data_sets_of_unequal_metainfo(tmp_path):
    """MMDetection's ConcatDataset has a list then; a part without names has nothing to say."""
    path = annotations(tmp_path)
    part = dict(type='CocoDataset', ann_file=path, data_prefix=dict(img=''), pipeline=[])
    metas = dict(classes=CLASSES, palette=[(1, 2, 3)]), dict(classes=CLASSES)
    parts = [dict(part, metainfo={'palette': [], **meta}) for meta in metas]
    with DefaultScope.overwrite_default_scope('mmdet'):
        joined = DATASETS.build(dict(type='ConcatDataset', datasets=parts))
    assert isinstance(joined.metainfo, list)
    names = class_names([*joined.metainfo, {}])
    assert names == list(CLASSES)
    check_label_numbers(joined, names, 3)
    with pytest.raises(ValueError, match='joined data sets name different classes'):
        class_names([*joined.metainfo, dict(classes=CLASSES[::-1])])


def test_categories_are_found_wherever_they_stand(tmp_path):
    for key in ('info', 'licenses'):
        path = annotations(tmp_path, **{key: [dict(note='"categories": [1]')]})
        with pytest.raises(ValueError, match=r"'circle' have label 0"):
            check_label_numbers(dataset_of(path, CLASSES[::-1]), CLASSES[::-1], 3)


def test_numbers_by_name(tmp_path):
    """VOC's data sets number by `metainfo.classes`; so the names cannot be wrong."""
    dataset = type('Voc', (), dict(cat2label=dict(circle=0, ring=1), ann_file='train.txt'))
    check_label_numbers(dataset, ('circle', 'ring'), 2)


def test_more_classes_than_the_head_has(tmp_path):
    dataset = dataset_of(annotations(tmp_path), CLASSES)
    with pytest.raises(ValueError, match=r'has 3 classes, the head .* 2: set bbox_head'):
        check_label_numbers(dataset, CLASSES, 2)
    with pytest.raises(ValueError, match='has 3 classes'):
        check_label_numbers(dataset, None, 2)


def test_check_and_training_refuse_permuted_classes(tmp_path, capsys):
    """By the tools, with `class_map='auto'`, which pairs by name."""
    trainings.draw_images(tmp_path / 'data')
    trainings.save_teacher(tmp_path / 'teacher.pth')
    config = trainings.distillation(tmp_path / 'data', tmp_path / 'teacher.pth', epochs=1)
    config.model.class_map = 'auto'
    for key in ('train', 'val', 'test'):
        dataset = config[f'{key}_dataloader'].dataset
        dataset.update(metainfo=dict(classes=CLASSES[::-1]), _scope_='mmdet')
    reason = (
        "instances_train.json: the objects of class 'circle' have label 0, metainfo.classes says 2"
    )
    ended = trainings.run_training(copy.deepcopy(config), tmp_path / 'work')
    assert ended.code != 0
    assert reason in ended.output
    assert 'Epoch(train)' not in ended.output
    assert trainings.load_tool('check').main([str(tmp_path / 'work.py')]) == 1
    out, err = capsys.readouterr()
    assert err.startswith('check failed: ')
    assert reason in err
    assert 'FITS' not in out

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_detrdistill.config.coco_format import resolve_coco_format

BCCD = Path(__file__).parents[3] / 'shared' / 'data' / 'bccd'
CATEGORIES = [dict(id=2, name='cat'), dict(id=5, name='dog'), dict(id=9, name='cow')]


def write_split(root, split, categories, **changes):
    content = dict(
        info={},
        images=[dict(id=1, file_name='a.png', width=4, height=4)],
        annotations=[],
        categories=categories,
    )
    content.update(changes)
    (root / 'annotations').mkdir(parents=True, exist_ok=True)
    (root / 'annotations' / f'{split}.json').write_text(json.dumps(content))
    (root / split).mkdir(exist_ok=True)
    (root / split / 'a.png').write_bytes(b'')


@pytest.fixture
def root(tmp_path):
    for split in ('train', 'val'):
        write_split(tmp_path, split, CATEGORIES)
    return tmp_path


def config(root, **changes):
    def loader():
        return dict(dataset=dict(type='CocoDataset', data_root='x', ann_file='y'))

    content = dict(
        coco_format=True,
        data_root=str(root),
        train_ann='annotations/train.json',
        train_img='train/',
        val_ann='annotations/val.json',
        val_img='val/',
        classes=None,
        train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, **loader())),
        val_dataloader=loader(),
        test_dataloader=loader(),
        val_evaluator=dict(type='CocoMetric', ann_file='y'),
        test_evaluator=[dict(type='CocoMetric', ann_file='y'), dict(type='Other')],
        model=dict(type='DETR', bbox_head=dict(num_classes=80)),
    )
    content.update(changes)
    return Config(content)


def test_fills_loaders_evaluators_and_head(root):
    cfg = config(root)
    resolve_coco_format(cfg)
    names = ('cat', 'dog', 'cow')
    assert cfg.classes == names
    train = cfg.train_dataloader.dataset
    assert train.type == 'RepeatDataset' and 'ann_file' not in train
    for dataset, split in (
        (train.dataset, 'train'),
        (cfg.val_dataloader.dataset, 'val'),
        (cfg.test_dataloader.dataset, 'val'),
    ):
        assert dataset.data_root == str(root)
        assert dataset.ann_file == f'annotations/{split}.json'
        assert dataset.data_prefix == dict(img=f'{split}/')
        assert dataset.metainfo.classes == names
    assert cfg.val_evaluator.ann_file == str(root / 'annotations' / 'val.json')
    assert cfg.test_evaluator[0].ann_file == str(root / 'annotations' / 'val.json')
    assert cfg.test_evaluator[1] == dict(type='Other')
    assert cfg.model.bbox_head.num_classes == 3


def test_twice_and_after_a_dump_changes_nothing(root, tmp_path):
    cfg = config(root, model=distillation('some/teacher.py'))
    resolve_coco_format(cfg)
    cfg.dump(str(tmp_path / 'dumped.py'))
    again = Config.fromfile(str(tmp_path / 'dumped.py'))
    assert again.model == cfg.model
    resolve_coco_format(again)
    assert again.model == cfg.model
    assert tuple(again.classes) == cfg.classes
    assert again.train_dataloader.dataset.dataset == cfg.train_dataloader.dataset.dataset


def test_command_line_options(root):
    cfg = config('nowhere')
    cfg.merge_from_dict(dict(data_root=str(root), classes=['cat', 'cow']))
    resolve_coco_format(cfg)
    assert cfg.classes == ('cat', 'cow')
    assert cfg.model.bbox_head.num_classes == 2
    assert cfg.val_dataloader.dataset.data_root == str(root)


def test_one_class_as_a_word(root):
    cfg = config(root, classes='dog')
    resolve_coco_format(cfg)
    assert cfg.classes == ('dog',)
    assert cfg.model.bbox_head.num_classes == 1


def distillation(teacher):
    student = dict(type='DETR', bbox_head=dict(num_classes=80))
    return dict(type='DETRDistill', architecture=student, teacher=teacher)


@pytest.mark.parametrize(
    'teacher',
    [
        'some/teacher.py',
        dict(cfg_path='some/teacher.py'),
        dict(cfg_path='some/teacher.py', options={'backbone.depth': 101}),
    ],
)
def test_teacher_by_path_gets_an_option(root, teacher):
    cfg = config(root, model=distillation(teacher))
    resolve_coco_format(cfg)
    assert cfg.model.architecture.bbox_head.num_classes == 3
    assert cfg.model.teacher.cfg_path == 'some/teacher.py'
    expected = {'bbox_head.num_classes': 3}
    if isinstance(teacher, dict):
        expected.update(teacher.get('options', {}))
    assert dict(cfg.model.teacher.options) == expected


def test_teacher_as_a_config(root):
    teacher = dict(type='DETR', bbox_head=dict(num_classes=80))
    cfg = config(root, model=distillation(teacher))
    resolve_coco_format(cfg)
    assert cfg.model.teacher.bbox_head.num_classes == 3


def test_with_a_class_map_the_teacher_keeps_its_classes(root):
    teacher = dict(type='DETR', bbox_head=dict(num_classes=80))
    cfg = config(root, model=dict(distillation(teacher), class_map='auto'))
    resolve_coco_format(cfg)
    assert cfg.model.architecture.bbox_head.num_classes == 3
    assert cfg.model.teacher.bbox_head.num_classes == 80


def test_other_configs_are_left_alone():
    cfg = Config(dict(model=dict(type='DETR'), data_root='nowhere'))
    resolve_coco_format(cfg)
    assert cfg.model == dict(type='DETR')
    cfg = config('nowhere', coco_format=False)
    resolve_coco_format(cfg)
    assert cfg.model.bbox_head.num_classes == 80


def test_missing_key(root):
    cfg = config(root, val_ann=None)
    with pytest.raises(KeyError, match='needs val_ann'):
        resolve_coco_format(cfg)


def test_missing_file(root):
    cfg = config(root, val_ann='annotations/absent.json')
    with pytest.raises(FileNotFoundError, match=r'absent\.json does not exist'):
        resolve_coco_format(cfg)


def test_missing_images(root):
    cfg = config(root, train_img='elsewhere')
    with pytest.raises(FileNotFoundError, match=r'elsewhere.*a\.png'):
        resolve_coco_format(cfg)


def test_not_json(root):
    (root / 'annotations' / 'train.json').write_text('{')
    with pytest.raises(ValueError, match=r'train\.json is not JSON'):
        resolve_coco_format(config(root))


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(categories=[]), '`categories` is empty'),
        (dict(images=[]), '`images` is empty'),
        (dict(annotations=None), 'no list `annotations`'),
        (dict(categories=[*CATEGORIES, dict(id=11, name='dog')]), 'more than one category.*dog'),
    ],
)
def test_unusable_file(root, changes, message):
    write_split(root, 'train', **{'categories': CATEGORIES, **changes})
    with pytest.raises(ValueError, match=f'train.json.*{message}'):
        resolve_coco_format(config(root))


def test_class_that_no_file_has(root):
    with pytest.raises(ValueError, match="training file has no category 'bird'; it has 'cat'"):
        resolve_coco_format(config(root, classes=('cat', 'bird')))


def test_classes_in_another_order(root):
    with pytest.raises(ValueError, match=r"as \('cat', 'cow'\), not as \('cow', 'cat'\)"):
        resolve_coco_format(config(root, classes=('cow', 'cat')))


def test_validation_in_another_order(root):
    write_split(root, 'val', CATEGORIES[::-1])
    with pytest.raises(ValueError, match='validation file lists its categories'):
        resolve_coco_format(config(root))


def test_validation_lacks_a_class(root):
    write_split(root, 'val', CATEGORIES[:2])
    with pytest.raises(ValueError, match="validation file has no category 'cow'"):
        resolve_coco_format(config(root))


def test_validation_has_more(root):
    write_split(root, 'val', [*CATEGORIES, dict(id=11, name='hen')])
    with pytest.raises(ValueError, match="'hen', which the training file lacks"):
        resolve_coco_format(config(root))
    cfg = config(root, classes=('cat', 'dog', 'cow'))
    resolve_coco_format(cfg)
    assert cfg.classes == ('cat', 'dog', 'cow')


def test_validation_may_number_its_categories_otherwise(root):
    write_split(root, 'val', [dict(id=i, name=c['name']) for i, c in enumerate(CATEGORIES)])
    cfg = config(root)
    resolve_coco_format(cfg)
    assert cfg.classes == ('cat', 'dog', 'cow')


def test_no_head(root):
    with pytest.raises(ValueError, match='Other has no bbox_head'):
        resolve_coco_format(config(root, model=dict(type='Other')))


@pytest.mark.skipif(not BCCD.is_dir(), reason='the data set is not here')
def test_labels_of_real_data():
    """MMDetection gives the labels that `classes` names."""
    from mmdet.datasets import CocoDataset

    cfg = config(
        BCCD,
        train_ann='annotations/instances_train.json',
        val_ann='annotations/instances_val.json',
        train_dataloader=dict(dataset=dict(type='CocoDataset')),
        val_evaluator=dict(ann_file=''),
        test_evaluator=dict(ann_file=''),
    )
    resolve_coco_format(cfg)
    assert cfg.classes == ('RBC', 'WBC', 'Platelets')
    options = {k: v for k, v in cfg.val_dataloader.dataset.items() if k != 'type'}
    dataset = CocoDataset(pipeline=[], **options)
    assert dataset.metainfo['classes'] == cfg.classes
    counts = [0, 0, 0]
    for index in range(len(dataset)):
        for instance in dataset.get_data_info(index)['instances']:
            counts[instance['bbox_label']] += 1
    assert counts == [779, 69, 65]

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_detrdistill.config import coco_format
from mmdet_detrdistill.config.coco_format import leaf_datasets, resolve_coco_format

BCCD = Path(__file__).parents[3] / 'shared' / 'data' / 'bccd'
CATEGORIES = [dict(id=2, name='cat'), dict(id=5, name='dog'), dict(id=9, name='cow')]
TEACHER = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'


def label(category, **changes):
    box = dict(bbox=[0, 0, 3, 3], area=9, iscrowd=0)
    return {**dict(id=1, image_id=1, category_id=category), **box, **changes}


def without(entry, key):
    return {name: value for name, value in entry.items() if name != key}


def write_split(root, split, categories, **changes):
    content = dict(
        info={},
        images=[dict(id=1, file_name='a.png', width=4, height=4)],
        annotations=[label(category['id'], id=n) for n, category in enumerate(categories)],
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
    cfg = config(root, model=distillation(TEACHER))
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
        TEACHER,
        dict(cfg_path=TEACHER),
        dict(cfg_path=TEACHER, options={'backbone.depth': 101}),
    ],
)
def test_teacher_by_path_gets_an_option(root, teacher):
    cfg = config(root, model=distillation(teacher))
    resolve_coco_format(cfg)
    assert cfg.model.architecture.bbox_head.num_classes == 3
    assert cfg.model.teacher.cfg_path == TEACHER
    expected = {'bbox_head.num_classes': 3}
    if isinstance(teacher, dict):
        expected.update(teacher.get('options', {}))
    assert dict(cfg.model.teacher.options) == expected


def test_a_teacher_that_is_not_there_is_left_as_it_is(root):
    cfg = config(root, model=distillation('some/teacher.py'))
    resolve_coco_format(cfg)
    assert cfg.model.teacher == dict(cfg_path='some/teacher.py')


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


IMAGE = dict(id=1, file_name='a.png', width=4, height=4)
TWO = [label(2), label(2, id=8)]


IMPERFECT = [
    (
        dict(annotations=[label(2), without(label(2, id=8), 'area')]),
        'annotation 8 has no `area`',
    ),
    (dict(annotations=[without(label(2), 'bbox')]), 'annotation 1 has no `bbox`'),
    (dict(annotations=[without(label(2), 'id')]), 'annotation number 0 has no `id`'),
    (dict(annotations=[label(2, bbox='1 2 3 4')]), '`bbox` of annotation 1 must be .x, y, w'),
    (dict(annotations=[label(2, bbox=[1, '2', 3, 4])]), '`bbox` of annotation 1 must be'),
    (
        dict(annotations=[label(2, area='9')]),
        '`area` of annotation 1 must be a number',
    ),
    (dict(annotations=[label(2), label(5)]), 'more than one annotation has the id 1'),
    (dict(images=[without(IMAGE, 'width')]), 'image 1 has no `width`'),
    (dict(images=[dict(IMAGE, height='4')]), '`height` of image 1 must be a number'),
    (dict(images=[IMAGE, IMAGE]), 'more than one image has the id 1'),
    (dict(annotations=[]), 'no object of the classes cat, dog, cow is labelled'),
    (dict(annotations=[label('2')]), 'no object .* 1 of a category that is not in the file'),
    (dict(annotations=[label(2, image_id=7)]), 'no object .* 1 of an image that is not in the'),
    (dict(annotations=[label(2, area=0)]), 'no object .* 1 of less than a pixel or outside'),
]


@pytest.mark.parametrize(('changes', 'message'), IMPERFECT)
@pytest.mark.parametrize('split', ['train', 'val'])
def test_imperfect_files(root, split, changes, message):
    """One error that names file, id and key; see MMDetection's `CocoDataset.parse_data_info`."""
    write_split(root, split, **{'categories': CATEGORIES, **changes})
    with pytest.raises(ValueError, match=f'{split}.json: {message}'):
        resolve_coco_format(config(root))


def test_what_the_evaluation_needs(root):
    """pycocotools reads `iscrowd` without a default, after the first epoch."""
    for split in ('train', 'val'):
        write_split(root, split, CATEGORIES, annotations=[without(label(2), 'iscrowd')])
    with pytest.raises(ValueError, match=r'val\.json: annotation 1 has no `iscrowd`'):
        resolve_coco_format(config(root))


def test_what_mmdetection_tolerates_is_counted(root, monkeypatch):
    said = []
    monkeypatch.setattr(coco_format, 'print_log', lambda text, logger: said.append(text))
    labels = [*TWO, label(2, id=9, image_id=7), label(2, id=10, iscrowd=1), label(3, id=11)]
    labels += [label(2, id=12, bbox=[9, 9, 3, 3]), label(2, id=13, ignore=True)]
    write_split(root, 'train', CATEGORIES, annotations=labels)
    resolve_coco_format(config(root))
    (line,) = said
    assert line.endswith(
        'train.json: 2 objects; left out 1 of an image that is not in the file, 2 to be ignored, '
        '1 of a category that is not in the file, 1 of less than a pixel or outside of the image'
    )


def test_joined_data_sets_become_the_one(root):
    parts = [dict(type='CocoDataset', data_root=name, ann_file='y', pipeline=[]) for name in 'ab']
    joined = dict(type='ConcatDataset', datasets=parts)
    for dataset in (joined, dict(type='RepeatDataset', times=2, dataset=joined)):
        cfg = config(root, train_dataloader=dict(dataset=dataset))
        resolve_coco_format(cfg)
        (leaf,) = leaf_datasets(cfg.train_dataloader.dataset)
        assert (leaf.type, leaf.data_root, leaf.pipeline) == ('CocoDataset', str(root), [])


def test_without_validation(root):
    (root / 'annotations' / 'val.json').unlink()
    none = dict(val_dataloader=None, test_dataloader=None, val_evaluator=None, test_evaluator=None)
    cfg = config(root, **none)
    resolve_coco_format(cfg)
    assert cfg.classes == ('cat', 'dog', 'cow')


def test_data_set_of_another_format(root):
    cfg = config(root, train_dataloader=dict(dataset=dict(type='VOCDataset')))
    with pytest.raises(ValueError, match="VOCDataset, which does not read COCO's format"):
        resolve_coco_format(cfg)


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


def test_every_head_gets_the_number_of_classes(root):
    """Co-DETR has three kinds of heads, two of them in lists, and one that counts no classes."""
    counts = dict(num_classes=80)
    heads = dict(
        query_head=dict(counts),
        rpn_head=dict(in_channels=256),
        roi_head=[dict(bbox_head=dict(counts))],
        bbox_head=[dict(counts)],
        backbone=dict(num_classes=1000),
    )
    cfg = config(root, model=dict(type='CoDETR', **heads))
    resolve_coco_format(cfg)
    model = cfg.model
    parts = (model.query_head, model.roi_head[0].bbox_head, model.bbox_head[0])
    assert [part.num_classes for part in parts] == [3, 3, 3]
    assert model.backbone.num_classes == 1000 and 'num_classes' not in model.rpn_head


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

import importlib.util
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'make_shapes.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('make_shapes', str(TOOL))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(folder):
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def annotations(folder, split):
    return json.loads((folder / 'annotations' / f'instances_{split}.json').read_text())


@pytest.fixture(scope='module')
def shapes(tool, tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'shapes'
    assert tool.make_shapes(str(out), train=40, val=20, seed=3, empty_share=0.1)
    return out


def test_same_seed_same_bytes(tool, shapes, tmp_path):
    again = tmp_path / 'again'
    tool.make_shapes(str(again), train=40, val=20, seed=3, empty_share=0.1)
    assert contents(again) == contents(shapes)


def test_other_seed_differs_and_splits_differ(tool, shapes, tmp_path):
    other = tmp_path / 'other'
    tool.make_shapes(str(other), train=40, val=20, seed=4, empty_share=0.1)
    first, second = contents(shapes), contents(other)
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)
    assert first['train/000000.png'] != first['val/000000.png']


def test_larger_set_extends_smaller(tool, shapes, tmp_path):
    larger = tmp_path / 'larger'
    tool.make_shapes(str(larger), train=42, val=20, seed=3, empty_share=0.1)
    small, large = contents(shapes), contents(larger)
    assert all(large[name] == small[name] for name in small if name.endswith('.png'))


def test_counts_sizes_and_fields(tool, shapes):
    for split, count in (('train', 40), ('val', 20)):
        found = annotations(shapes, split)
        assert [image['id'] for image in found['images']] == list(range(1, count + 1))
        assert tuple(c['name'] for c in found['categories']) == tool.CLASSES
        assert [c['id'] for c in found['categories']] == list(range(1, 9))
        assert found['info']['arguments']['seed'] == 3
        assert found['info']['version'] == tool.VERSION
        per_image = {image['id']: 0 for image in found['images']}
        for item in found['annotations']:
            per_image[item['image_id']] += 1
            assert item['iscrowd'] == 0
        assert min(per_image.values()) == 0  # images without objects occur in both splits
        assert 3 < max(per_image.values()) <= 8
        sides = set()
        for image in found['images']:
            pixels = cv2.imread(str(shapes / split / image['file_name']))
            assert pixels.shape == (image['height'], image['width'], 3)
            sides.update(pixels.shape[:2])
        assert min(sides) >= 96 and max(sides) <= 128 and len(sides) > 5


def test_boxes_lie_inside_and_have_area(shapes):
    for split in ('train', 'val'):
        found = annotations(shapes, split)
        images = {image['id']: image for image in found['images']}
        assert found['annotations']
        for item in found['annotations']:
            x, y, width, height = item['bbox']
            image = images[item['image_id']]
            assert x >= 0 and y >= 0 and width >= 1 and height >= 1
            assert x + width <= image['width'] and y + height <= image['height']
            assert item['area'] == width * height


def test_tight_box_by_value(tool):
    mask = np.zeros((10, 12), bool)
    mask[3, 4] = mask[6, 9] = True  # rows 3..6, columns 4..9
    assert tool.tight_box(mask) == [4, 3, 6, 4]


def test_rendered_box_by_value(tool):
    """A circle of diameter 40, squeezed to 0.75 and turned by 90 degrees, around (50, 60).

    Its long axis is then vertical: x in [35, 65], y in [40, 80]; its area is pi/4 * 40 * 30.
    """
    cover = tool.draw_mask('circle', 100, 90, (50, 60), 40, math.pi / 2, 0.75)
    x, y, width, height = tool.tight_box(cover >= 0.5)
    np.testing.assert_allclose([x, y, width, height], [35, 40, 30, 40], atol=1.0)
    np.testing.assert_allclose(cover.sum(), math.pi / 4 * 40 * 30, rtol=0.05)


@pytest.mark.parametrize('name', ['ring', 'frame'])
def test_hollow_shapes_show_what_is_behind(tool, name):
    cover = tool.draw_mask(name, 64, 64, (32, 32), 40, 0.0, 1.0)
    assert cover[32, 32] == 0
    assert tool.tight_box(cover >= 0.5)[2] >= 38


def test_visible_parts_are_disjoint_and_large_enough(tool):
    covered = False
    for index in range(20):
        rng = np.random.default_rng(index)
        _, labels, masks = tool.render(rng, 128, 8, 0.0)
        assert 1 <= len(labels) == len(masks) <= 8
        assert np.sum(masks, axis=0).max() == 1  # a pixel belongs to the shape drawn last
        boxes = [tool.tight_box(mask) for mask in masks]
        for mask, (x, y, width, height) in zip(masks, boxes):
            inside = mask[y : y + height, x : x + width]
            assert inside.sum() == mask.sum() and mask.sum() > 0
            assert inside[0].any() and inside[-1].any()
            assert inside[:, 0].any() and inside[:, -1].any()
        covered = covered or any(
            a != b and mask[boxes[b][1] : boxes[b][1] + 2, boxes[b][0] : boxes[b][0] + 2].any()
            for a, mask in enumerate(masks)
            for b in range(len(boxes))
        )
    assert covered  # occlusion occurs


def test_coco_loads(shapes):
    from pycocotools.coco import COCO

    for split, count in (('train', 40), ('val', 20)):
        coco = COCO(str(shapes / 'annotations' / f'instances_{split}.json'))
        assert len(coco.getImgIds()) == count
        boxes = [
            dict(image_id=a['image_id'], category_id=a['category_id'], bbox=a['bbox'], score=1.0)
            for a in coco.anns.values()
        ]
        coco.loadRes(boxes)  # needs `info`


def test_reuses_the_same_and_refuses_another(tool, tmp_path, capsys):
    out = tmp_path / 'set'
    arguments = [str(out), '--train', '3', '--val', '2']
    tool.main(arguments)
    before = (out / 'train' / '000000.png').stat().st_mtime_ns
    tool.main(arguments)
    assert (out / 'train' / '000000.png').stat().st_mtime_ns == before
    assert capsys.readouterr().out.splitlines()[1].startswith('reused 3 + 2')
    with pytest.raises(SystemExit, match='remove it or choose another folder'):
        tool.main([*arguments, '--seed', '1'])
    (out / 'val' / '000001.png').unlink()
    with pytest.raises(SystemExit, match='not the complete shapes set'):
        tool.main(arguments)


def test_leaves_foreign_files_alone(tool, tmp_path):
    (tmp_path / 'mine.txt').write_text('keep')
    with pytest.raises(FileExistsError):
        tool.make_shapes(str(tmp_path), train=1, val=1)
    assert (tmp_path / 'mine.txt').read_text() == 'keep'


def test_replaces_an_interrupted_run(tool, tmp_path):
    out = tmp_path / 'set'
    stale = tmp_path / 'set.partial' / 'train'
    stale.mkdir(parents=True)
    (stale / 'old.png').write_text('')
    assert tool.make_shapes(str(out), train=1, val=1)
    assert sorted(p.name for p in (out / 'train').iterdir()) == ['000000.png']
    assert not (tmp_path / 'set.partial').exists()


@pytest.mark.parametrize(
    'bad', [dict(train=0), dict(val=0), dict(seed=-1), dict(size=32), dict(empty_share=1.0)]
)
def test_bad_arguments(tool, tmp_path, bad):
    with pytest.raises(ValueError):
        tool.make_shapes(str(tmp_path / 'set'), **bad)

"""Every stock config of the DETR family is checked, as a copied file and through `mmdet::`."""

import os
import shutil
from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config

from tests.trainings import load_tool

CONFIGS = Path(os.path.dirname(mmdet.__file__)) / '.mim' / 'configs'
FAMILIES = ('detr', 'conditional_detr', 'dab_detr', 'deformable_detr', 'dino', 'ddq')
STOCK = sorted(
    path.relative_to(CONFIGS) for name in FAMILIES for path in CONFIGS.glob(f'{name}/*.py')
)


@pytest.fixture(scope='module')
def copied(tmp_path_factory):
    """MMDetection's configs, as a clone of it has them."""
    folder = tmp_path_factory.mktemp('clone')
    for name in ('_base_', *FAMILIES):
        shutil.copytree(CONFIGS / name, folder / name)
    return folder


def test_none_is_missing():
    names = ' '.join(map(str, STOCK))
    assert len(STOCK) >= 17
    assert all(part in names for part in ('r18', 'r50', 'r101', 'swin-l', 'swinl', *FAMILIES))


@pytest.mark.sweep
@pytest.mark.parametrize('way', ['copied', 'mmdet'])
@pytest.mark.parametrize('path', STOCK, ids=lambda path: path.stem)
def test_check_passes(path, way, copied, tmp_path, monkeypatch, capsys):
    """The detector teaches itself, at full size; two random images."""
    monkeypatch.chdir(tmp_path)
    name = f'mmdet::{path}' if way == 'mmdet' else str(copied / path)
    tool = load_tool('distill')
    tool.write_config(name, name, 'teacher.pth', losses=['paper', 'aligned'], out='made.py')
    options = ['--random-teacher', '--synthetic', '--device', 'cpu', '--size', '224', '256']
    code = load_tool('check').main(['made.py', *options])
    assert (code, capsys.readouterr().err) == (0, '')


def test_a_copied_config_with_data_of_its_own(copied, monkeypatch, capsys):
    """`_base_` by a path, so that nothing says `mmdet`; the data set is built where it is there."""
    data = copied / 'data'
    load_tool('make_shapes').main([str(data), '--train', '4', '--val', '2', '--size', '64'])
    monkeypatch.chdir(copied / 'dino')
    own = dict(data_root=f'{data}/', metainfo=dict(classes=('circle', 'hexagon', 'ring')))
    train = dict(own, ann_file='annotations/instances_train.json', data_prefix=dict(img='train/'))
    content = dict(
        model=dict(
            backbone=dict(init_cfg=None),
            encoder=dict(num_layers=1),
            decoder=dict(num_layers=2),
            bbox_head=dict(num_classes=3),
        ),
        train_dataloader=dict(num_workers=0, persistent_workers=False, dataset=train),
    )
    lines = [f'{key} = {value!r}' for key, value in content.items()]
    base = "_base_ = './dino-4scale_r50_8xb2-12e_coco.py'"
    Path('mine.py').write_text('\n'.join([base, *lines]))
    assert '_scope_' not in str(Config.fromfile('mine.py').to_dict())
    resize = 'train_dataloader.dataset.pipeline.3.transforms'
    options = [f'{resize}.0.0.scales=[(224,256)]', f'{resize}.1.0.scales=[(224,256)]']
    options += [f'{resize}.1.2.scales=[(224,256)]']
    command = ['mine.py', '--teacher', 'mine.py', '--random-teacher', '--cfg-options', *options]
    load_tool('distill').main(command)
    said = capsys.readouterr().out
    assert 'FITS' in said
    assert 'first batch of the training data' in said

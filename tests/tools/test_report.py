"""The command on real detectors; the page in a headless browser, as a reader opens it."""

import importlib
import json
import os
import re
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from tests.browser import BADLY_PLACED
from tests.tiny_detectors import tiny_config
from tests.tools.work_dirs import distillation, tool, train_line, work_dir, write_log


@pytest.fixture(scope='module')
def real(tmp_path_factory):
    """Three work directories with real detectors, checkpoints and two validation images."""
    root = tmp_path_factory.mktemp('real')
    data = root / 'shapes'
    importlib.import_module('tools.make_shapes').make_shapes(str(data), train=2, val=2, size=64)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(96, 64), keep_ratio=True),
        dict(type='PackDetInputs'),
    ]
    annotations = str(data / 'annotations/instances_val.json')
    dataset = dict(type='CocoDataset', ann_file=annotations, data_prefix=dict(img=f'{data}/val/'))
    loader = dict(dataset=dict(dataset, test_mode=True, pipeline=pipeline))
    load = [pipeline[0], dict(type='LoadAnnotations', with_bbox=True), *pipeline[1:]]
    classes = dict(metainfo=dict(classes=('circle', 'hexagon', 'ring')), pipeline=load)
    train = dict(
        batch_size=2, sampler=dict(type='DefaultSampler'), dataset=dict(dataset, **classes)
    )
    common = dict(
        default_scope='mmdet',
        val_dataloader=loader,
        train_dataloader=train,
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    )
    student, teacher = (tiny_config('deformable', num_layers=n) for n in (1, 2))
    for detector in (student, teacher):
        detector.test_cfg = dict(max_per_img=10)
    folders = []
    losses = dict(loss_logits_kd=dict(type='LogitsKDLoss'))
    distilled = dict(
        distillation(root / 'teacher', student),
        teacher=teacher,
        distiller=dict(type='DETRDistiller', distill_losses=losses),
    )
    for name, model, score in (
        ('teacher', teacher, 0.5),
        ('alone', student, 0.2),
        ('distilled', distilled, 0.3),
    ):
        classes = {'circle': score, 'ring & <b>frame</b>': 0.2}
        folder = work_dir(root, name, model, [0.1, score], classes=classes, **common)
        lines = [{'assignment/instability': 0.3 - score / 5, 'step': epoch} for epoch in (2, 3)]
        if name == 'distilled':
            lines += [
                train_line(n, 3, loss_cls=1.0, **{'loss_logits_kd.cls': 2.0}) for n in (50, 60)
            ]
        write_log(folder, '20240102_000000', lines)
        with DefaultScope.overwrite_default_scope('mmdet'):
            built = MODELS.build(deepcopy(teacher if name == 'teacher' else student))
        built.init_weights()
        state = built.state_dict()
        if name == 'distilled':
            state = {f'architecture.{key}': value for key, value in state.items()}
        torch.save(dict(state_dict=state, meta={}), f'{folder}/epoch_2.pth')
        folders.append(folder)
    return folders, built


@pytest.fixture(scope='module')
def page(real, tmp_path_factory):
    """The folder of a whole report, written by the command."""
    out = tmp_path_factory.mktemp('page')
    tool('report').main([*real[0], '--out', str(out), '--seconds', '0.5'])
    return out


def test_card_by_value(real, page):
    groups = json.loads((page / 'report.json').read_text())['groups']
    student = real[1]
    count = sum(parameter.numel() for parameter in student.parameters())
    cards = [group['card'] for group in groups]
    assert cards[1]['parameters'] == cards[2]['parameters'] == count
    assert cards[0]['parameters'] > count
    assert re.match(r'teacher \d+%, student \d+%', cards[2]['step'])
    assert cards[2]['step'].split(';')[0] in (page / 'report.html').read_text()
    assert cards[0]['gflops'] > cards[1]['gflops'] == cards[2]['gflops'] > 0
    size = sum(v.numel() * v.element_size() for v in student.state_dict().values())
    assert cards[2]['weights_bytes'] == size
    assert cards[1]['checkpoint_bytes'] == os.path.getsize(f'{real[0][1]}/epoch_2.pth')
    for card in cards:
        low, high = card['latency_range_ms']
        assert 0 < low <= card['latency_ms'] <= high
        assert card['images_per_second'] > 0


def test_figures_are_written(page):
    names = {path.stem for path in (page / 'charts').glob('*.png')}
    expected = {'map', 'instability', 'classes_2', 'distillation_share', 'loss_loss_cls'}
    assert expected | {'loss_loss', 'loss_loss_bbox', 'loss_loss_logits_kd_cls'} <= names


def test_every_chart_has_named_axes(page):
    """With their unit in brackets; classes have none."""
    text = (page / 'report.html').read_text()
    charts = re.findall(r'<figure.*?</figure>', text, re.DOTALL)
    assert len(charts) >= 8
    for chart in charts:
        words = re.findall(r'<text[^>]*>([^<]+)</text>', chart)
        assert sum('(' in word or word == 'class' for word in words) >= 2, words


CUT_TABLES = """() => [...document.querySelectorAll('.wide')].filter(
    e => e.scrollWidth > e.clientWidth).map(e => e.previousElementSibling.textContent)"""


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [390, 1100])
def test_page_in_a_browser(page, browser, width, scheme):
    """No error, no request but for the page, every image shown, nothing beside the screen."""
    tab = browser.new_page(viewport=dict(width=width, height=800), color_scheme=scheme)
    problems, requests = [], []
    tab.on('console', lambda message: problems.append(message.text))
    tab.on('pageerror', lambda error: problems.append(str(error)))
    tab.on('request', lambda request: requests.append(request.url))
    tab.goto(f'file://{page}/report.html')
    assert problems == []
    assert [url for url in requests if not url.startswith('data:')] == [
        f'file://{page}/report.html'
    ]
    sizes = tab.evaluate(
        """() => [...document.querySelectorAll('figure svg, img')].map(e =>
            'naturalWidth' in e ? e.naturalWidth : e.getBoundingClientRect().width)"""
    )
    assert len(sizes) >= 8
    assert min(sizes) > 200
    assert tab.evaluate('document.documentElement.scrollWidth') <= width
    assert tab.evaluate(BADLY_PLACED) == []
    assert 'Card' not in tab.evaluate(CUT_TABLES)
    assert width < 1100 or tab.evaluate(CUT_TABLES) == []
    background = tab.evaluate('getComputedStyle(document.body).backgroundColor')
    level = int(re.findall(r'\d+', background)[0])
    assert level > 200 if scheme == 'light' else level < 60
    assert 'ring & <b>frame</b>' in tab.inner_text('body') or tab.evaluate(
        "document.body.textContent.includes('ring & <b>frame</b>')"
    )
    tab.close()


def test_evaluate_fills_what_was_not_logged(real, tmp_path, monkeypatch):
    """A folder without an evaluation gets mAP and class scores from its checkpoint."""
    folder = tmp_path / 'run'
    shutil.copytree(real[0][1], folder)
    shutil.rmtree(folder / '20240102_000000')
    log = folder / '20240101_000000' / 'vis_data' / 'scalars.json'
    log.write_text(json.dumps(train_line(10, 1, loss_cls=1.0)) + '\n')
    config = Config.fromfile(folder / 'alone.py')
    config.test_dataloader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=config.val_dataloader.dataset,
    )
    annotations = config.val_dataloader.dataset.ann_file
    config.test_evaluator = dict(type='CocoMetric', ann_file=annotations, metric='bbox')
    config.test_cfg = dict(type='TestLoop')
    config.val_dataloader = None
    names = [entry['name'] for entry in json.loads(Path(annotations).read_text())['categories']]
    config.test_dataloader.dataset.metainfo = dict(classes=names[:3])
    config.dump(folder / 'alone.py')
    run = tool('run_report.work_dir').read_work_dir(str(folder))
    assert run.curve == [] and run.per_class == {}
    tool('run_report.measure').evaluate(run)
    assert 0 <= run.final['mAP'] <= 100
    assert set(run.per_class) <= set(names)

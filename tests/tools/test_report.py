"""Work directories read by value; the page in a headless browser, as a reader opens it."""

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

from tests.detectors import tiny_config

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
NAMES = ('', '_50', '_75', '_s', '_m', '_l')


@pytest.fixture(autouse=True)
def tools_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


def tool(name):
    return importlib.import_module(name)


def metrics(score, epoch, classes=None):
    """A line of an evaluation; large objects are not there."""
    line = {f'coco/bbox_mAP{name}': -1.0 if name == '_l' else score for name in NAMES}
    line.update({f'coco/{name}_precision': value for name, value in (classes or {}).items()})
    return {**line, 'step': epoch}


def train_line(step, epoch, **losses):
    return dict(loss=sum(losses.values()), **losses, lr=0.1, epoch=epoch, iter=step, step=step)


def write_log(folder, stamp, lines, seed=None):
    path = Path(folder) / stamp / 'vis_data'
    path.mkdir(parents=True)
    (path / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    log = '    Python: 3.11.7 (main, May 9)\n    PyTorch: 2.13.0+cpu\n    MMEngine: 0.10.7\n'
    (path.parent / f'{stamp}.log').write_text(log + (f'    seed: {seed}\n' if seed else ''))


STUDENT = dict(type='DETR', num_queries=5)


def work_dir(root, name, model, scores, seed=0, classes=(), **settings):
    """A work directory whose epochs scored `scores`; `classes`: AP of each in the last."""
    folder = root / name
    folder.mkdir()
    config = Config(dict(model=model, randomness=dict(seed=seed), **settings))
    config.dump(folder / f'{name.rstrip("0123456789")}.py')
    lines = []
    for epoch, score in enumerate(scores, 1):
        lines.append(train_line(10 * epoch, epoch, loss_cls=3.0 / epoch, loss_bbox=1.0))
        lines.append(metrics(score, epoch, dict(classes)))
    write_log(folder, '20240101_000000', lines)
    return str(folder)


def distillation(teacher, student=None):
    return dict(
        type='DETRDistill',
        architecture=student or STUDENT,
        teacher='t.py',
        teacher_ckpt=f'{teacher}/epoch_2.pth',
    )


@pytest.fixture
def pair(tmp_path):
    """A teacher, three seeds of a student alone (20, 22, 24) and distilled (25, 26, 30)."""
    teacher = work_dir(tmp_path, 'teacher', dict(type='DETR', num_queries=9), [0.3, 0.5])
    found = [teacher]
    for seed, (alone, distilled) in enumerate([(0.2, 0.25), (0.22, 0.26), (0.24, 0.3)]):
        classes = dict(cat=alone, dog=0.1)
        found.append(work_dir(tmp_path, f'alone{seed}', STUDENT, [0.1, alone], seed, classes))
        classes = dict(cat=distilled, dog=0.1 + seed / 10)
        model = distillation(teacher)
        found.append(work_dir(tmp_path, f'distilled{seed}', model, [0.1, distilled], seed, classes))
    return found


def report_of(folders, **options):
    read = tool('run_report.work_dir').read_work_dir
    page = tool('run_report.page')
    return page.Report([read(folder) for folder in folders], 'T', 'c', seconds=0, **options)


def test_roles_groups_and_gains_by_value(pair):
    """Gains 5, 4, 6 by seed: mean 5, deviation 1; means 22 and 27."""
    found = report_of(pair[::-1])
    assert [(g.label, g.role, len(g.runs)) for g in found.groups] == [
        ('teacher', 'teacher', 1),
        ('student alone', 'student', 3),
        ('student distilled', 'distilled', 3),
    ]
    means = [entry['metrics']['mAP'] for entry in found.summary]
    assert means[1] == {'mean': 22.0, 'std': 2.0, 'min': 20.0, 'max': 24.0}
    assert [entry['mean'] for entry in means] == [50.0, 22.0, 27.0]
    assert found.gains == [
        {
            'label': 'student distilled',
            'per_seed': {0: 5.0, 1: 4.0, 2: 6.0},
            **{'mean': 5.0, 'std': 1.0, 'min': 4.0, 'max': 6.0},
        }
    ]


def test_class_gains_pair_equal_seeds(pair):
    """cat 5, 4, 6; dog 0, 10, 20."""
    found = report_of(pair)
    gains = tool('run_report.summary').class_gains(found.groups[2], found.groups)
    assert gains['cat'] == {'mean': 5.0, 'std': 1.0, 'min': 4.0, 'max': 6.0}
    assert gains['dog'] == {'mean': 10.0, 'std': 10.0, 'min': 0.0, 'max': 20.0}


def test_table_of_one_and_of_several_seeds(pair):
    one = report_of(pair[:3]).table
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in one.splitlines()[:5]]
    names = ['mAP', 'AP50', 'AP75', 'small', 'medium', 'large', 'minutes', 'seeds']
    assert rows[0] == ['', 'epochs', *names]
    cells = ['2', '20.0', '20.0', '20.0', '20.0', '20.0', '-', '-', '0']
    assert rows[3] == ['student alone', *cells]
    assert one.endswith('gain of student distilled: +5.0 mAP (one seed)')
    several = report_of(pair).table
    assert '22.0 ± 2.0' in several
    assert '(std 1.0, min +4.0, max +6.0; per seed +5.0, +4.0, +6.0)' in several


def test_teacher_is_found_by_its_checkpoint(pair):
    assert [g.role for g in report_of(pair[1:]).groups] == ['teacher', 'student', 'distilled']


def test_what_is_not_there_is_named(pair, tmp_path):
    """No teacher, no student alone; no checkpoint, no class scores, no instability, no speed."""
    lonely = work_dir(tmp_path, 'lonely', distillation('nowhere'), [0.1])
    missing = '\n'.join(report_of([lonely]).missing)
    for text in (
        'no work directory of the teacher was given',
        'no work directory of the student trained alone was given',
        'no AP per class was logged',
        'no checkpoint',
        'no instability of the assignment was logged',
        'parameters, FLOPs, latency, throughput: not measured',
    ):
        assert text in missing
    assert report_of([lonely]).gains == []
    assert 'the seed is not known' not in missing


def test_other_configs_of_one_role_are_told_apart(pair, tmp_path):
    other = dict(distillation(pair[0]), distiller=dict(type='Other'))
    more = work_dir(tmp_path, 'other', other, [0.1, 0.2], classes=dict(cat=0.2, dog=0.1))
    found = report_of([*pair, more])
    labels = [group.label for group in found.groups]
    assert labels[2:] == ['student distilled (distilled)', 'student distilled (other)']
    styles = tool('run_report.charts').styles_of(found.groups)
    assert len({style.color for style in styles}) == len({s.linestyle for s in styles}) + 1 == 4


def test_a_resumed_training_is_joined_and_a_repeated_one_replaced(tmp_path):
    read = tool('run_report.work_dir').read_work_dir
    folder = work_dir(tmp_path, 'run', STUDENT, [0.1, 0.2, 0.3])
    lines = [train_line(30, 3, loss_cls=9.0), metrics(0.4, 3), train_line(40, 4, loss_cls=8.0)]
    write_log(folder, '20240102_000000', lines)
    run = read(folder)
    assert [(p['epoch'], p['mAP']) for p in run.curve] == [(1, 10), (2, 20), (3, 40)]
    assert run.losses['loss_cls'] == [(10, 3.0), (20, 1.5), (30, 9.0), (40, 8.0)]
    write_log(folder, '20240103_000000', [train_line(10, 1, loss_cls=7.0), metrics(0.5, 1)])
    run = read(folder)
    assert [(p['epoch'], p['mAP']) for p in run.curve] == [(1, 50)]
    assert run.losses['loss_cls'] == [(10, 7.0)]


def test_environment_seed_checkpoint_and_instability(tmp_path):
    folder = work_dir(tmp_path, 'run', STUDENT, [0.1], seed=None)
    lines = [{'assignment/instability': 0.25, 'assignment/instability_stage1': 0.2, 'step': 2}]
    write_log(folder, '20240102_000000', lines, seed=7)
    (Path(folder) / 'epoch_2.pth').write_bytes(b'')
    (Path(folder) / 'last_checkpoint').write_text('moved/away/epoch_2.pth')
    run = tool('run_report.work_dir').read_work_dir(folder)
    assert run.seed == 7
    assert run.environment['PyTorch'] == '2.13.0+cpu'
    assert run.environment['Python'] == '3.11.7'
    assert run.instability == [(2, 0.25)]
    assert run.checkpoint == f'{folder}/epoch_2.pth'


def test_share_of_the_distillation_losses():
    """(2 + 1) of 6; statistics do not count."""
    losses = {
        'loss': [(10, 6.0)],
        'loss_cls': [(10, 3.0)],
        'loss_logits_kd.cls': [(10, 2.0)],
        'loss_feature_kd': [(10, 1.0)],
        'logits_kd.entropy': [(10, 5.0)],
    }
    assert tool('run_report.charts').distillation_share(losses) == [(10, 50.0)]
    assert tool('run_report.charts').distillation_share({'loss': [(10, 6.0)]}) == []


def test_mean_and_range_over_seeds():
    series = [[(1, 10.0), (2, 20.0)], [(1, 14.0)]]
    found = tool('run_report.charts').over_seeds(series)
    assert found == ([1, 2], [12.0, 20.0], [10.0, 20.0], [14.0, 20.0])


@pytest.mark.parametrize(
    'content, message',
    [
        ({}, r'has no config \(\*\.py\)'),
        ({'a.py': 'model = dict()'}, r'has no log \(\*/vis_data/scalars\.json\)'),
        ({'a.py': 'model = (', 'x/vis_data/scalars.json': ''}, r'a\.py: SyntaxError'),
        ({'a.py': 'model = 1', 'x/vis_data/scalars.json': '{\n'}, r'line 1: not JSON'),
    ],
)
def test_no_work_directory(tmp_path, content, message):
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match=message):
        tool('report').main([str(tmp_path)])
    with pytest.raises(SystemExit, match='nowhere is not a folder'):
        tool('report').main(['nowhere'])


@pytest.fixture(scope='module')
def real(tmp_path_factory):
    """Three work directories with real detectors, checkpoints and two validation pictures."""
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
    common = dict(default_scope='mmdet', val_dataloader=loader)
    student, teacher = (tiny_config('deformable', num_layers=n) for n in (1, 2))
    for detector in (student, teacher):
        detector.test_cfg = dict(max_per_img=10)
    folders = []
    for name, model, score in (
        ('teacher', teacher, 0.5),
        ('alone', student, 0.2),
        ('distilled', distillation(root / 'teacher', student), 0.3),
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
    os.sys.path.insert(0, str(TOOLS))
    tool('report').main([*real[0], '--out', str(out), '--seconds', '0.5'])
    return out


def test_card_by_value(real, page):
    groups = json.loads((page / 'report.json').read_text())['groups']
    student = real[1]
    count = sum(parameter.numel() for parameter in student.parameters())
    cards = [group['card'] for group in groups]
    assert cards[1]['parameters'] == cards[2]['parameters'] == count
    assert cards[0]['parameters'] > count
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
    expected = {'map', 'instability', 'classes', 'distillation_share', 'loss_loss_cls'}
    assert expected | {'loss_loss', 'loss_loss_bbox', 'loss_loss_logits_kd_cls'} <= names


def test_every_chart_has_named_axes(page):
    """With their unit in brackets; classes have none."""
    text = (page / 'report.html').read_text()
    charts = re.findall(r'<figure.*?</figure>', text, re.DOTALL)
    assert len(charts) >= 8
    for chart in charts:
        words = re.findall(r'<text[^>]*>([^<]+)</text>', chart)
        assert sum('(' in word or word == 'class' for word in words) >= 2, words


@pytest.fixture(scope='module')
def browser():
    """Chromium of the system, driven by Playwright."""
    path = shutil.which('chromium') or shutil.which('chromium-browser')
    path = path or shutil.which('google-chrome')
    if path is None:
        pytest.skip('no Chromium: apt-get install chromium')  # in CI a skip is a failure
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=path,
            args=['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
        )
        yield started
        started.close()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [390, 1100])
def test_page_in_a_browser(page, browser, width, scheme):
    """No error, no request but for the page, every picture shown, nothing beside the screen."""
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
    tool('run_report.measure').evaluate_classes(run)
    assert 0 <= run.final['mAP'] <= 100
    assert set(run.per_class) <= set(names)

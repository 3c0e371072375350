"""The benchmarks: figures fit together, values are right."""

import importlib.util
import json
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.functional.assign_kd import assign_kd
from tests.functional import cases
from tests.functional.cases import Draw
from tests.stepping import load, shrink
from tests.tiny_detectors import batch, tiny

ROOT = Path(__file__).parents[2]
CONFIG = 'configs/deformable_detr/detrdistill_deformable-detr_r50-from-r101_16xb2-50e_coco.py'


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'benchmarks' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


benchmark = tool('benchmark')
losses = tool('benchmark_losses')
released = sys.modules['benchmark_released']
steps = sys.modules['benchmark_steps']
SMALL = [
    '--size',
    '64',
    '96',
    '--images',
    '1',
    '--repeats',
    '2',
    '--warmup',
    '0',
    '--device',
    'cpu',
]


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('benchmark')
    shrunk = shrink(load(ROOT / CONFIG), folder)
    shrunk.dump(folder / 'tiny.py')
    return folder / 'tiny.py'


@pytest.fixture(scope='module')
def report(config, tmp_path_factory):
    file = tmp_path_factory.mktemp('report') / 'report.json'
    found = benchmark.main([str(config), *SMALL, '--reference', '--json', str(file)])
    assert json.loads(file.read_text()) == json.loads(json.dumps(found))
    return found


def test_ratios_are_those_of_the_medians(report):
    mid = {name: median(values) for name, values in report['seconds'].items()}
    part = {name: median(values) for name, values in report['parts'].items()}
    assert all(len(values) == 2 for values in report['seconds'].values())
    assert list(mid) == ['student', 'teacher', 'aligned', 'paper', 'released']
    assert set(part) == {
        'logits_kd', 'feature_kd', 'assign_kd', 'aligned_kd',
        'gt_assignment', 'decoder', 'matching',
    }  # fmt: skip
    base = mid['student'] + mid['teacher']
    ratios = report['ratios']
    assert ratios['aligned / (a + b)'] == mid['aligned'] / base
    assert ratios['paper / (a + b)'] == mid['paper'] / base
    with_parts = base + part['aligned_kd'] + part['gt_assignment']
    assert ratios['(a + b + parts of aligned) / (a + b)'] == pytest.approx(with_parts / base)
    assert ratios['released / paper'] == mid['released'] / mid['paper']
    assert ratios['matching / a'] == part['matching'] / mid['student']


def test_options_of_the_losses_are_timed(tmp_path):
    options = load(ROOT / 'benchmarks/configs/dino_options.py')
    shrink(options, tmp_path).dump(tmp_path / 'tiny.py')
    report = benchmark.main(
        [str(tmp_path / 'tiny.py'), *SMALL, '--losses', 'aligned+logits+feature']
    )
    assert {'logits_kd', 'feature_kd', 'aligned_kd', 'matching'} < set(report['parts'])
    mid = median(report['seconds']['student'])
    assert report['ratios']['aligned_kd / a'] == median(report['parts']['aligned_kd']) / mid


def test_memory_is_that_of_the_weights_and_peaks(report):
    weights, peaks = report['memory']['weights'], report['memory']['peaks']
    assert peaks['paper'] >= peaks['student'] > peaks['teacher'] > 0
    assert peaks['aligned'] >= peaks['student']
    both = weights['student'] + weights['teacher']
    assert report['memory']['ratios'] == {
        name: (both + peaks[name]) / (both + peaks['student']) for name in ('aligned', 'paper')
    }
    assert report['setting']['images'] == 1


def test_mixed_precision_is_that_of_forward_passes(config, monkeypatch):
    found = []

    def measure(*args):
        leaf = torch.ones((), requires_grad=True)
        leaf.register_hook(lambda gradient: found.append(torch.is_autocast_cpu_enabled()))
        steps.backward(leaf * 2)
        return dict(dtype=str(torch.get_autocast_cpu_dtype()), on=torch.is_autocast_cpu_enabled())

    monkeypatch.setattr(benchmark, 'measure', measure)
    monkeypatch.setattr(benchmark, 'show', lambda report: None)
    report = benchmark.main([str(config), *SMALL, '--autocast', 'bfloat16'])
    assert (report['dtype'], report['on'], found) == ('torch.bfloat16', True, [False])
    assert report['setting']['autocast'] == 'bfloat16'
    assert not benchmark.main([str(config), *SMALL])['on']


def test_operations_are_counted(report):
    count = report['operations']
    base = count['student'] + count['teacher']
    assert base < count['aligned'] < count['paper'] < count['released']


@pytest.mark.parametrize('name', ['logits_kd', 'feature_kd', 'assign_kd'])
def test_a_loss_takes_as_many_operations_for_six_stages_as_for_two(name):
    """Forward and backward: all stages go through one call, or a GPU would wait for its kernels."""
    function = getattr(cases, name, assign_kd)
    make = {'logits_kd': 'logits_case', 'feature_kd': 'feature_case', 'assign_kd': 'assign_case'}

    def operations(stages):
        options = dict(student_stages=stages, teacher_stages=stages)
        if name == 'feature_kd':
            options = dict(stages=stages)
        case = vars(getattr(Draw(), make[name])(**options))
        with steps.Footprint() as found:
            value = function(**case)
            (sum(value.values()) if isinstance(value, dict) else value).backward()
        return found.operations

    assert operations(6) == operations(2)


@pytest.mark.parametrize('variant', ['deformable', 'dino'])
def test_operations_that_a_step_adds(variant):
    """To the student's step, the teacher's pass and the injected decoder pass: at most 500.

    The number depends on levels and losses, which are those of the stock detectors, and not on
    stages (test before this one), queries, widths or image sizes.
    """
    losses = dict(logits='LogitsKDLoss', feature='FeatureKDLoss', assign='AssignKDLoss')
    model = DETRDistill(
        tiny(variant, seed=1),
        tiny(variant, seed=2),
        dict(
            type='DETRDistiller',
            distill_losses={f'loss_{name}_kd': dict(type=kind) for name, kind in losses.items()},
        ),
    ).train()

    def operations(run):
        model.zero_grad(set_to_none=True)
        with steps.Footprint() as found:
            run()
        return found.operations

    def distilled(images, samples):
        model.parse_losses(model.loss(images, samples))[0].backward()

    def parts(images, samples):
        teacher = model.teacher_pass(images, samples)
        student = model.student_adapter.forward_pass(images, samples)
        total, _ = model.parse_losses(model.student_adapter.task_loss(student, samples))
        (name,) = model.distiller.injections
        outputs = model._pair(student, teacher, samples).injected_pass(name)
        torch.autograd.backward(
            (total, outputs.logits, outputs.boxes),
            (None, torch.ones_like(outputs.logits), torch.ones_like(outputs.boxes)),
        )

    images, samples = batch()
    images, added = images[..., :32, :32], []
    for sample in samples:
        sample.set_metainfo(dict(img_shape=(24, 32), batch_input_shape=(32, 32)))
    for copies in (1, 4):
        inputs = images.repeat(copies, 1, 1, 1), samples * copies
        counts = [operations(lambda r=run, i=inputs: r(*i)) for run in (distilled, parts)]
        added.append(counts[0] - counts[1])
    assert 400 < added[0] <= 500
    assert added[1] <= 1.2 * added[0]


def test_sweep(config):
    found = benchmark.main([str(config), *SMALL, '--sweep', 'queries=10,20', 'levels=2'])['sweep']
    assert [(row['swept'], row['value']) for row in found] == [
        ('queries', 10), ('queries', 20), ('levels', 2),
    ]  # fmt: skip
    assert all(median(row['parts']['matching']) > 0 for row in found)
    with pytest.raises(SystemExit, match='queries'):
        benchmark.parse_sweep(['layers=2'])


def test_footprint_counts_what_lives_at_the_same_time_and_what_computes():
    with steps.Footprint() as found:
        first = torch.ones(100)
        torch.ones(50)  # gone at once
        second = first.view(10, 10) + 1
        first.mul_(2)
    assert found.peak == 800
    assert found.operations == 4  # the view computes nothing
    del second
    assert found.live == 400


def test_reference_makes_the_released_losses():
    """The slow way and `preset='released'` give the same values."""
    kinds = dict(logits='LogitsKDLoss', feature='FeatureKDLoss', assign='AssignKDLoss')
    model = DETRDistill(
        architecture=tiny('deformable', seed=1),
        teacher=tiny('deformable', seed=2),
        distiller=dict(
            type='DETRDistiller',
            distill_losses={
                f'loss_{name}_kd': dict(type=kind, preset='released')
                for name, kind in kinds.items()
            },
        ),
    ).train()
    for module in model.student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    images, samples = batch(padded=False)
    slow = released.released_losses(model, images, samples)
    fast = model.loss(images, samples)
    for name in kinds:
        terms = [v for key, v in fast.items() if key.startswith(f'loss_{name}_kd')]
        torch.testing.assert_close(sum(terms), slow[f'loss_{name}_kd'], rtol=1e-4, atol=1e-5)


def test_feature_forms_have_the_values_of_the_masks():
    """The memory beside inputs and gradients is a few feature maps, whatever the form."""
    rows = losses.main(
        ['feature', '--queries', '60', '--size', '200', '300', '--images', '1', '--repeats', '1']
    )
    assert [row['form'] for row in rows] == ['paper', 'paper, no objects', 'released']
    maps = (25 * 38 + 13 * 19 + 7 * 10 + 4 * 5) * 256 * 4 / 2**20
    for row in rows:
        assert row['relative_difference'] < 1e-5
        assert row['ours']['mib'] < 4.5 * maps
        assert row['ratios'][1] == row['masks']['mib'] / row['ours']['mib']


def test_every_way_of_matching_finds_the_same_cost(tmp_path):
    random = np.random.default_rng(0)
    arrays = dict(
        cost=random.random((2, 2, 30, 30), np.float32),
        positive=random.random((2, 2, 30)) < 0.2,
        hard=random.random((2, 2, 30)) < 0.5,
    )
    np.savez(tmp_path / 'costs.npz', **arrays)
    rows = losses.main(['match', str(tmp_path / 'costs.npz'), '--repeats', '1'])
    assert [row['form'] for row in rows[:: len(rows) // 3]] == ['joint', 'paper', 'hard']
    assert all(row['relative_difference'] < 1e-6 for row in rows)

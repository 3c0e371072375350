"""Roles, groups, gains and curves of a report, by value."""

import re
from types import SimpleNamespace

import pytest

from tests.tools.work_dirs import STUDENT, distillation, tool, work_dir


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
            'metric': 'mAP',
            'unequal': [],
        }
    ]


def test_a_gain_of_unequal_training_says_so(pair, tmp_path):
    """2 epochs alone; 3 of one distilled seed, which is not finished or trained longer."""
    model = distillation(pair[0])
    longer = work_dir(tmp_path, 'distilled9', model, [0.1, 0.2, 0.3], seed=0)
    found = report_of([pair[1], longer])
    assert found.gains[0]['unequal'] == [('3 epochs', '2 epochs')]
    assert found.table.endswith(
        'gain of student distilled: +10.0 mAP (one seed), '
        'not at equal training: 3 epochs against 2 epochs alone'
    )


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
    assert '±' not in one
    assert '(std 1.0, min +4.0, max +6.0; per seed +5.0, +4.0, +6.0)' in several


def test_equal_scores_of_two_seeds_have_a_spread_of_zero(pair, tmp_path):
    more = work_dir(tmp_path, 'alone7', STUDENT, [0.1, 0.2], seed=7)
    assert '20.0 ± 0.0' in report_of([pair[1], more, pair[2]]).table


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


def test_what_several_seeds_lack_is_named_once(pair):
    found = [line for line in report_of(pair).missing if 'no instability' in line]
    assert [line.split(',')[0] for line in found] == [
        'teacher',
        'student alone',
        'student distilled',
    ]
    assert all(f'distilled{seed}' in found[2] for seed in range(3))


def test_other_configs_of_one_role_are_told_apart(pair, tmp_path):
    other = dict(distillation(pair[0]), distiller=dict(type='Other'))
    more = work_dir(tmp_path, 'other', other, [0.1, 0.2], classes=dict(cat=0.2, dog=0.1))
    found = report_of([*pair, more])
    labels = [group.label for group in found.groups]
    assert labels[2:] == ['student distilled (distilled)', 'student distilled (other)']
    styles = tool('run_report.charts').styles_of(found.groups)
    assert len({style.color for style in styles}) == 4


def test_share_of_the_distillation_losses():
    """(2 + 1) of 6; statistics do not count."""
    share = tool('run_report.work_dir').distillation_share
    losses = {
        'loss': [(10, 6.0)],
        'loss_cls': [(10, 3.0)],
        'loss_logits_kd.cls': [(10, 2.0)],
        'loss_feature_kd': [(10, 1.0)],
        'logits_kd.entropy': [(10, 5.0)],
    }
    assert share(SimpleNamespace(losses=losses)) == [(10, 50.0)]
    assert share(SimpleNamespace(losses={'loss': [(10, 6.0)]})) == []


def test_mean_and_range_over_seeds():
    series = [[(1, 10.0), (2, 20.0)], [(1, 14.0)]]
    found = tool('run_report.charts').over_seeds(series)
    assert found == ([1, 2], [12.0, 20.0], [10.0, 20.0], [14.0, 20.0])


def test_eight_groups_differ_in_colour_and_in_dashes():
    """Without colour too: in lines, and in the page's legend of lines."""
    roles = ('teacher', 'student', *6 * ('distilled',))
    styles = tool('run_report.charts').styles_of([SimpleNamespace(role=role) for role in roles])
    for part in ('color', 'dashes', 'marker'):
        assert len({getattr(style, part) for style in styles}) == 8, part


def test_nothing_learnt_is_drawn_on_one_per_cent(tmp_path):
    """A curve of zeros has no axis of hundredths."""
    run = work_dir(tmp_path, 'run', STUDENT, [0.0, 0.0])
    draw = tool('run_report.charts').Charts(report_of([run]).groups, 'mAP', str(tmp_path))
    ((_, svg),) = draw.curves()
    ticks = [float(word) for word in re.findall(r'<text[^>]*>([\d.]+)</text>', svg)]
    assert max(ticks) == 2 and sorted(ticks)[:4] == [0.0, 0.2, 0.4, 0.6]

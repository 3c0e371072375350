"""Every ordered pair of families takes a step, and docs/support.md says the truth."""

import math
import re
from pathlib import Path

import pytest

from mmdet_detrdistill import DETRDistill
from tests.support_table import (
    BEGIN,
    END,
    STUDENTS,
    TEACHERS,
    build_tiny,
    injection_of,
    step,
    table,
)

ROOT = Path(__file__).parents[1]
PAIRS = [(student, teacher) for student in STUDENTS for teacher in TEACHERS]


@pytest.mark.parametrize(('student', 'teacher'), PAIRS)
def test_pair_takes_a_step_or_is_refused_by_name(student, teacher):
    own, other = build_tiny(student, seed=1), build_tiny(teacher, seed=2, num_queries=15)
    terms = step(own, other)
    assert all(math.isfinite(value) for value in terms.values())
    assert terms['loss_feature_kd'] > 0
    assert terms['loss_logits_kd.neg_bbox'] > 0
    if injection_of(own, other):
        assert terms['loss_assign_kd.cls'] > 0
        assert terms['loss_aligned_kd.neg_bbox'] > 0
        return
    with pytest.raises(ValueError, match='--losses logits feature'):
        DETRDistill(
            own,
            other,
            dict(
                type='DETRDistiller', distill_losses=dict(loss_assign_kd=dict(type='AssignKDLoss'))
            ),
        )


def test_documented_table_is_the_code_s():
    page = (ROOT / 'docs' / 'support.md').read_text()
    documented = page.split(BEGIN)[1].split(END)[0].strip()
    assert documented == table()


@pytest.mark.parametrize('name', ['support.md', 'new_detector.md'])
def test_what_the_pages_name_exists(name):
    text = (ROOT / 'docs' / name).read_text()
    linked = [ROOT / 'docs' / target for target in re.findall(r'\]\(([^)#]+)\)', text)]
    named = [ROOT / target for target in re.findall(r'`((?:tests|tools)/[\w/]+(?:\.py)?)/?`', text)]
    assert named
    assert all(path.exists() for path in linked + named), linked + named

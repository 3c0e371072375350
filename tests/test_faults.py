"""The quick faults end as expected, and the table in docs/reliability.md has them all."""

import re
from pathlib import Path

import pytest

from tests.faults import CASES, Place
from tests.faults.__main__ import BEGIN, END

PAGE = Path(__file__).parents[1] / 'docs' / 'reliability.md'
QUICK = [case for case in CASES if not case.slow]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp('faults'))


@pytest.mark.parametrize('case', QUICK, ids=[re.sub(r'\W+', '-', case.name) for case in QUICK])
def test_fault(place, case):
    found = case.run(place)
    assert found.fits, f'expected {case.expected}\nobserved {found.observed}'


def test_the_table_is_complete():
    rows = PAGE.read_text().split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    names = []
    for row in rows:
        name, outcome, _ = (cell.strip() for cell in row.strip('| ').split(' | '))
        assert '**expected**' not in outcome, row
        what, colon, which = name.partition(': ')
        names += [f'{what}{colon}{part}' for part in which.split('; ')]
    assert names == [case.name for case in CASES]

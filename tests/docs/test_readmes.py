"""The Chinese README says what the English one says: commands, code, numbers and links."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = ((ROOT / n).read_text() for n in ('README.md', 'README_zh-CN.md'))
HINT = 'README.md and README_zh-CN.md differ: change both'


def code(text):
    """Code blocks and inline code, without comments and the spaces before them."""
    blocks = re.findall(r'^```.*?\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r'\s*#.*', '', line) for block in blocks for line in block.splitlines()]
    prose = re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)
    return lines, Counter(re.sub(r'\s+', ' ', item) for item in re.findall(r'`([^`]+)`', prose))


def test_each_names_the_other():
    assert ENGLISH.splitlines()[2] == 'English | [简体中文](README_zh-CN.md)'
    assert CHINESE.splitlines()[2] == '[English](README.md) | 简体中文'


def test_same_commands_and_code():
    (lines, inline), (own_lines, own_inline) = code(ENGLISH), code(CHINESE)
    assert own_lines == lines, HINT
    assert own_inline == inline, HINT


@pytest.mark.parametrize('pattern', [r'\d+\.\d+', r'\d{4}-\d\d-\d\d', r'\d,\d{3}'])
def test_same_numbers(pattern):
    assert Counter(re.findall(pattern, CHINESE)) == Counter(re.findall(pattern, ENGLISH)), HINT


def test_same_table_cells():
    """Cells that are numbers, in their order."""
    own, other = (
        [re.findall(r'(?<=\| )[\d.+± ]+(?= \|)', line) for line in text.splitlines() if '|' in line]
        for text in (CHINESE, ENGLISH)
    )
    assert [row for row in own if row] == [row for row in other if row], HINT


def test_same_links():
    own, other = (
        sorted(re.findall(r'\]\(([^)#]+)\)', re.sub(r'\]\(README.*?\)', '', text)))
        for text in (CHINESE, ENGLISH)
    )
    assert own == other, HINT

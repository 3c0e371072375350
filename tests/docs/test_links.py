"""Every relative link in a Markdown file leads to a file, and to a heading where it names one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob('*.md')), *sorted(ROOT.glob('docs/**/*.md'))]
PAGES += sorted(ROOT.glob('configs/**/*.md'))
every_page = pytest.mark.parametrize('page', PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def without_code(text):
    return re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """The ids that repository hosts, and our site, give to the headings of a page."""
    found = set()
    for heading in re.findall(r'^#+ (.*?)\s*#*$', without_code(page.read_text()), re.MULTILINE):
        text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading).replace('`', '')
        found.add(re.sub(r'[^\w\- ]', '', text.lower()).replace(' ', '-'))
    return found


def links(page):
    text = without_code(page.read_text())
    found = re.findall(r'\]\((\S+?)(?: "[^"]*")?\)', text)
    found += re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    return [link for link in found if not re.match(r'[a-z]+:', link)]


@every_page
def test_relative_links(page):
    for link in links(page):
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f'{page.relative_to(ROOT)} links to {link}'
        assert ROOT in target.parents or target == ROOT, f'{link} leaves the repository'
        if anchor:
            assert anchor in anchors(target), f'{page.relative_to(ROOT)} links to {link}'


def test_pages_are_found():
    names = {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert {'README.md', 'docs/method.md', 'configs/dino/README.md'} <= names
    assert sum(len(links(page)) for page in PAGES) > 50

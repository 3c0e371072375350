"""The site builds without a warning, fetches nothing, and every link on it leads somewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from inspect import ismodule
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest

from tests.browser import BADLY_PLACED

ROOT = Path(__file__).resolve().parents[2]
FETCHING = {'script': 'src', 'img': 'src', 'link': 'href', 'iframe': 'src', 'source': 'srcset'}


class Page(HTMLParser):
    """Ids and links of a page, and what a browser fetches to show it."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.fetched = set(), [], []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids.update(filter(None, (values.get('id'), values.get('name'))))
        if tag == 'a' and 'href' in values:
            self.links.append(values['href'])
        if values.get(FETCHING.get(tag)):
            self.fetched.append(values[FETCHING[tag]])


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)]
    environment = dict(os.environ, NO_MKDOCS_2_WARNING='1')
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stdout + built.stderr
    assert 'WARNING' not in built.stdout + built.stderr
    return folder


@pytest.fixture(scope='module')
def pages(site):
    return {path: Page(path) for path in sorted(site.rglob('*.html'))}


def test_every_page_of_the_repository_is_there(site, pages):
    expected = {
        p.relative_to(ROOT / 'docs').with_suffix('.html') for p in ROOT.glob('docs/**/*.md')
    }
    expected.add(Path('index.html'))
    outside = ROOT.glob('configs/**/README.md')
    expected |= {Path('repository', p.relative_to(ROOT)).with_name('index.html') for p in outside}
    assert {str(p) for p in expected} <= {str(p.relative_to(site)) for p in pages}


def test_links_and_anchors_lead_somewhere(site, pages):
    for path, page in pages.items():
        for link in page.links + page.fetched:
            parts = urlsplit(link)
            if parts.scheme or link.startswith('/'):
                continue  # checked below; 404.html is the only page with absolute links
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= 'index.html'
            assert target.is_file(), f'{path.relative_to(site)} links to {link}'
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, (path.name, link)


def test_nothing_is_fetched_from_elsewhere(pages, site):
    for path, page in pages.items():
        for link in page.fetched:
            assert not urlsplit(link).netloc, f'{path.name} fetches {link}'
    for style in site.rglob('*.css'):
        for link in re.findall(r'(?:url\(|@import )["\']?([^"\')]+)', style.read_text()):
            assert not urlsplit(link).netloc, f'{style.name} fetches {link}'


def test_api_pages_have_the_public_names(site):
    import mmdet_detrdistill
    from mmdet_detrdistill import hooks

    text = ''.join(path.read_text() for path in (site / 'api').glob('*.html'))
    documented = set(re.findall(r'id="mmdet_detrdistill\.([\w.]+)"', text))
    names = {name.split('.')[-1] for name in documented}
    assert {'logits_kd', 'feature_kd', 'assign_kd', 'aligned_kd', *hooks.__all__} <= names
    public = mmdet_detrdistill.__all__
    assert {n for n in public if not ismodule(getattr(mmdet_detrdistill, n))} <= names
    tools = (site / 'api' / 'tools.html').read_text()
    assert 'id="checkpy"' in tools and 'Exit code 1, with the reason in one line' in tools
    assert 'id="training_runspy"' not in tools, 'no command'


every_figure = pytest.mark.parametrize(
    'figure', sorted((ROOT / 'docs' / 'figures').glob('*.svg')), ids=lambda p: p.stem
)


@every_figure
@pytest.mark.parametrize('font', ['DejaVu Sans', 'Liberation Sans', 'sans-serif'])
def test_words_of_figures_do_not_overlap(figure, font, browser):
    text, replaced = re.subn(r'font-family: [^;]+;', f'font-family: {font};', figure.read_text())
    assert replaced
    tab = browser.new_page(viewport=dict(width=1100, height=800))
    tab.set_content(f'<figure>{text}</figure>')
    assert tab.evaluate(BADLY_PLACED) == []
    tab.close()


@every_figure
def test_figures_are_small_and_complete(figure):
    """Text, for a diff; no font or image from elsewhere; another look in the dark; a title."""
    text = figure.read_text()
    root = ElementTree.fromstring(text)
    assert figure.stat().st_size < 30_000
    assert root.find('{http://www.w3.org/2000/svg}title').text
    assert 'prefers-color-scheme: dark' in text
    assert not re.search(r'href|@import|url\((?!#)', text)

"""A browser for tests, and what it is asked about figures."""

import shutil

import pytest

#: in a page: words of each figure that leave it or overlap another word
BADLY_PLACED = """() => [...document.querySelectorAll('figure svg')].flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    const words = [...svg.querySelectorAll('text')];
    const boxes = words.map(e => e.getBoundingClientRect());
    const inside = a => a.left > frame.left - 1 && a.right < frame.right + 1 &&
        a.top > frame.top - 1 && a.bottom < frame.bottom + 1;
    const apart = (a, b) => a.right < b.left + 1 || b.right < a.left + 1 ||
        a.bottom < b.top + 1 || b.bottom < a.top + 1;
    return words.filter((_, i) => !inside(boxes[i]) ||
        boxes.some((other, j) => i < j && !apart(boxes[i], other))).map(e => e.textContent);
})"""


@pytest.fixture(scope='session')
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

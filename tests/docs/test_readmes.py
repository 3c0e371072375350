"""Both READMEs have the same commands and links, and the tables of `benchmarks/results`."""

import json
import re

from benchmarks.readme_tables import PAGES, RESULTS, ROOT, filled
from tests.docs.commands import texts


def without_comments(page):
    return [re.sub(r'\s+#.*', '', text) for text in texts(ROOT / page)]


def test_same_commands_and_links():
    english, chinese = PAGES
    assert without_comments(english) == without_comments(chinese)
    links = [
        sorted(re.findall(r'\]\(((?!README)[^)#]+)', (ROOT / page).read_text())) for page in PAGES
    ]
    assert links[0] == links[1]


def test_tables_are_those_of_the_results():
    """When this fails, run `make results`."""
    results = json.loads(RESULTS.read_text(encoding='utf-8'))
    for page, language in PAGES.items():
        text = (ROOT / page).read_text(encoding='utf-8')
        assert filled(text, results, language) == text, page

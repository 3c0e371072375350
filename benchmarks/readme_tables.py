"""Write the tables of measured results into both READMEs.

    python benchmarks/readme_tables.py

A table stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`; its figures come from
`benchmarks/results/readme.json`, so that both languages show the same ones.
"""

import json
import re
from pathlib import Path
from typing import Any, Dict

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks' / 'results' / 'readme.json'
PAGES = {'README.md': 'en', 'README_zh-CN.md': 'zh'}


def block(result: Dict[str, Any], words: Dict[str, str], language: str) -> str:
    """Return one table in Markdown, with its caption below."""
    rows = [result['columns'], ['---'] * len(result['columns']), *result['rows']]
    lines = ['| ' + ' | '.join(words.get(cell, cell) for cell in row) + ' |' for row in rows]
    return '\n'.join([*lines, '', result['captions'][language].format(**result['values'])])


def filled(text: str, results: Dict[str, Any], language: str) -> str:
    """Return a page with every table written anew.

    Raises:
        ValueError: the page lacks the place of a table.
    """
    for name, result in results['tables'].items():
        place = re.compile(rf'(<!-- {name}: begin -->).*?(<!-- {name}: end -->)', re.DOTALL)
        if not place.search(text):
            raise ValueError(f'no place for the table {name}: <!-- {name}: begin --> is missing')
        new = f'\n\n{block(result, results["words"][language], language)}\n\n'
        text = place.sub(lambda match, new=new: match.group(1) + new + match.group(2), text)
    return text


def main() -> None:
    results = json.loads(RESULTS.read_text(encoding='utf-8'))
    for name, language in PAGES.items():
        page = ROOT / name
        text = page.read_text(encoding='utf-8')
        page.write_text(filled(text, results, language), encoding='utf-8')


if __name__ == '__main__':
    main()

"""MkDocs hook: the site's pages link to files of the repository as they do on the repository's own pages.

README.md is the home page. Other Markdown files outside of docs/ become pages, and other files that a
page links to are copied, both under `repository/`. The page of the tools is made of their docstrings, that of
the notebook of its cells. A page of docs/ that the nav in mkdocs.yml lacks goes under "More".
"""

import ast
import json
import os
import re
from pathlib import Path
from typing import Any, List

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    'README.md',
    'README_zh-CN.md',
    'CONTRIBUTING.md',
    'CHANGELOG.md',
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob('configs/**/README.md')),
)
LINK = re.compile(r'(?<=\]\()(?![a-z]+:|#)([^)#\s]+)')


def place(path: str) -> str:
    """Where a file of the repository stands in the site's sources."""
    if path == 'README.md':
        return 'index.md'
    return path[len('docs/') :] if path.startswith('docs/') else f'repository/{path}'


def origin(page: str) -> str:
    """The repository's file that stands there."""
    if page == 'index.md':
        return 'README.md'
    return page[len('repository/') :] if page.startswith('repository/') else f'docs/{page}'


def on_files(files: Files, config: Any) -> Files:
    for path in PAGES:
        if (ROOT / path).exists():
            add(files, path, config)
    files.append(File.generated(config, 'api/tools.md', content=tools_page()))
    files.append(File.generated(config, 'notebook.md', content=notebook_page()))
    listed = set(named(config['nav']))
    rest = sorted(file.src_uri for file in files.documentation_pages())
    rest = [page for page in rest if page not in listed]
    if rest:
        config['nav'].append({'More': rest})
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    here = page.file.src_uri

    def moved(match: 're.Match[str]') -> str:
        path = os.path.normpath(os.path.join(os.path.dirname(origin(here)), match.group(1)))
        path = path.replace(os.sep, '/')
        if (ROOT / path / 'README.md').is_file():
            path += '/README.md'
        if not (ROOT / path).is_file():
            return match.group(1)  # MkDocs says that it is not found
        add(files, path, config)
        return os.path.relpath(place(path), os.path.dirname(here)).replace(os.sep, '/')

    return LINK.sub(moved, markdown)


def tools_page() -> str:
    """What each command in tools/ says of itself."""
    parts = ['# Tools', 'Plain scripts; options: `python tools/NAME.py --help`.']
    for path in sorted((ROOT / 'tools').glob('*.py')):
        source = path.read_text(encoding='utf-8')
        if "__name__ == '__main__'" in source:
            parts += [f'## {path.name}', ast.get_docstring(ast.parse(source)) or '']
    return '\n\n'.join(parts)


def notebook_page() -> str:
    """The cells of docs/quickstart.ipynb."""
    cells = json.loads((ROOT / 'docs' / 'quickstart.ipynb').read_text(encoding='utf-8'))['cells']
    form = {'markdown': '{}', 'code': '```python\n{}\n```'}
    parts = [form[cell['cell_type']].format(''.join(cell['source'])) for cell in cells]
    parts.insert(1, 'This page shows the cells of [quickstart.ipynb](quickstart.ipynb).')
    return '\n\n'.join(parts)


def add(files: Files, path: str, config: Any) -> None:
    uri = place(path)
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))


def named(nav: Any) -> List[str]:
    """The pages of a nav."""
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in entries for page in named(entry)]

"""What goes wrong on the third day: each fault made on purpose, in a training by tools/train.py.

    python -m tests.faults [--quick] [--write docs/reliability.md]

Prints per fault what was observed, and what was there to go on from. Exit status 1 when something
differs from what is expected. `--quick` leaves out what takes long; pytest runs that form. For
Linux: the full disk is a small tmpfs where mounting is allowed, and a limit on the size of files
elsewhere.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Tuple

from tests.faults import CASES, Place, Result

BEGIN, END = '<!-- fault table: begin -->', '<!-- fault table: end -->'


def run_all(quick: bool, folder: Path) -> List[Result]:
    place, results = Place(folder), []
    for entry in CASES:
        if quick and entry.slow:
            continue
        start = time.monotonic()
        found = entry.run(place)
        results.append(found)
        seconds = time.monotonic() - start
        print(
            f'{"as expected" if found.fits else "NOT AS EXPECTED"}: {entry.name} ({seconds:.0f} s)'
        )
        print(f'    {found.observed}\n    {found.kept}', flush=True)
    return results


def table(results: List[Result]) -> str:
    """Return the table in Markdown; cases `what: which` that end alike share a row."""
    rows: Dict[Tuple[str, str, str], List[str]] = {}
    for found in results:
        what, _, which = found.case.name.partition(': ')
        text = found.case.outcome if 'Error: ' in found.observed else found.observed
        if not found.fits:
            text = f'**expected** {found.case.outcome} **but** {found.observed}'
        text = text.replace('|', '\\|').replace('<', '&lt;')
        rows.setdefault((what, text, found.kept), []).append(which)
    lines = ['| fault | outcome, as expected | remains |', '|---|---|---|']
    for (what, text, kept), which in rows.items():
        name = f'{what}: {"; ".join(which)}' if any(which) else what
        lines.append(f'| {name} | {text} | {kept} |')
    return '\n'.join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='leave out what takes long')
    parser.add_argument('--write', type=Path, help='put the table between the markers of this file')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = run_all(args.quick, Path(name))
    if args.write:
        page = args.write.read_text()
        before, rest = page.split(BEGIN)
        _, after = rest.split(END)
        args.write.write_text(f'{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}')
    unlike = [found.case.name for found in results if not found.fits]
    print(f'{len(results) - len(unlike)} of {len(results)} as expected', *unlike, sep='\n    ')
    return 1 if unlike else 0


if __name__ == '__main__':
    sys.exit(main())

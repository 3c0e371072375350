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
from typing import List

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
    lines = ['| fault | observed, as expected | remains |', '|---|---|---|']
    for found in results:
        text = found.observed
        text = text if len(text) <= 110 else f'{text[:107]}...'
        text = text.replace('|', '\\|').replace('<', '&lt;')
        verdict = '' if found.fits else f'**not as expected** ({found.case.outcome}): '
        cells = [found.case.name, verdict + text, found.kept]
        lines.append(f'| {" | ".join(cells)} |')
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

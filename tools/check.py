"""Check a config before training: build both sides, run one step on one batch, print a table.

    python tools/check.py CONFIG [--cfg-options key=value ...] [--random-teacher] [--synthetic]

Exit code 1, with the reason in one line, when something does not fit. The table is what to paste
into an issue.
"""

import argparse
import sys
import warnings
from typing import Optional, Sequence

try:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import mmdet_detrdistill  # noqa: F401
except ImportError as error:  # the installation, with the remedy
    sys.exit(f'check failed: {" ".join(str(error).split())}')

import torch

from mmdet_detrdistill.check.run import check, quiet, reason_of, show
from mmdet_detrdistill.config.launch import add_common_options
from mmdet_detrdistill.config.read import read_config


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument(
        '--random-teacher', action='store_true', help='no checkpoint yet: random teacher weights'
    )
    parser.add_argument('--synthetic', action='store_true', help='random images even if data exist')
    parser.add_argument(
        '--size', type=int, nargs=2, default=(256, 320), metavar=('H', 'W'), help='of random images'
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args(argv)
    try:
        with quiet():
            options = dict(size=args.size, synthetic=args.synthetic, device=args.device)
            config = read_config(args, needs_data=False)
            for rows in check(config, random_teacher=args.random_teacher, **options):
                show(rows)
    except (Exception, SystemExit) as error:  # every reason becomes one line
        print(f'check failed: {reason_of(error)}', file=sys.stderr)
        return 1
    print('FITS')
    return 0


if __name__ == '__main__':
    sys.exit(main())

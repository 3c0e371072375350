"""One page about finished trainings: what was gained, for what, and how it was made.

    python tools/report.py WORK_DIR [WORK_DIR ...] [--out FOLDER]

Reads MMEngine work directories: of a teacher, of students alone and distilled, of any number of
seeds; the teacher's is found by its checkpoint. Writes report.html, which needs nothing else and no
network, report.json and the charts as PNG.
"""

import argparse
import shlex
import sys
import warnings
from typing import Optional, Sequence

from run_report.page import Report
from run_report.work_dir import WorkDirError, read_work_dir


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR')
    parser.add_argument('--out', default='report', help='folder to write (default: report)')
    parser.add_argument('--title', default='Distillation report')
    parser.add_argument(
        '--evaluate',
        action='store_true',
        help='evaluate checkpoints whose log has no mAP or no AP per class',
    )
    parser.add_argument(
        '--seconds',
        type=float,
        default=6.0,
        help='how long to measure latency, and throughput (default 6); 0: no detector is built',
    )
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> Report:
    """Write the report, and return it."""
    arguments = parse_arguments(argv)
    warnings.filterwarnings('ignore')
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        runs = [read_work_dir(folder.rstrip('/')) for folder in dict.fromkeys(arguments.work_dirs)]
        if arguments.evaluate:
            from run_report.measure import evaluate_classes

            for run in runs:
                if not (run.per_class and run.curve):
                    evaluate_classes(run)
    except (WorkDirError, FileNotFoundError) as error:
        sys.exit(f'report: {error}')
    command = ' '.join(['python', 'tools/report.py', *map(shlex.quote, given)])
    report = Report(runs, arguments.title, command, seconds=arguments.seconds)
    paths = report.write(arguments.out)
    print(report.table)
    for line in report.missing:
        print(f'missing: {line}')
    print('wrote ' + ' and '.join(paths))
    return report


if __name__ == '__main__':
    main()

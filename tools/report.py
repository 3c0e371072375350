"""One page about finished trainings: gains, curves, costs, and how they were made.

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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('work_dirs', nargs='+', metavar='WORK_DIR')
    add('--out', default='report', help='folder to write (default: report)')
    add('--title', default='Distillation report')
    text = 'evaluate checkpoints whose log has no metrics or no AP per class'
    add('--evaluate', action='store_true', help=text)
    text = 'how long to measure latency, and throughput (default 6); 0: no detector is built'
    add('--seconds', type=float, default=6.0, help=text)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> Report:
    """Write the report, and return it."""
    arguments = build_parser().parse_args(argv)
    warnings.filterwarnings('ignore')
    try:
        runs = [read_work_dir(folder.rstrip('/')) for folder in dict.fromkeys(arguments.work_dirs)]
        if arguments.evaluate:
            from run_report.measure import evaluate  # slow

            for run in runs:
                if not (run.per_class and run.curve):
                    evaluate(run)
    except (WorkDirError, FileNotFoundError) as error:
        sys.exit(f'report: {error}')
    command = shlex.join(['python', 'tools/report.py', *(sys.argv[1:] if argv is None else argv)])
    report = Report(runs, arguments.title, command, seconds=arguments.seconds)
    paths = report.write(arguments.out)
    print(report.table)
    for line in report.missing:
        print(f'missing: {line}')
    print('wrote ' + ' and '.join(paths))
    return report


if __name__ == '__main__':
    main()

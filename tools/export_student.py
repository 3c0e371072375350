"""Take the student out of a distillation: what MMDetection needs to use it without this package.

    python tools/export_student.py CONFIG CHECKPOINT [--out DIR]

Writes DIR/student.py and DIR/student_NAME.pth, NAME being the checkpoint's. Then for example
    mim test mmdet DIR/student.py --checkpoint DIR/student_NAME.pth
"""

import argparse
import os.path as osp
from typing import Optional, Sequence, Tuple

from mmdet_detrdistill.checkpoints.export import build_student, export_student
from mmdet_detrdistill.config.launch import add_config_options
from mmdet_detrdistill.config.read import read_config


def main(argv: Optional[Sequence[str]] = None) -> Tuple[str, str]:
    """Export, and return the paths of config and checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_options(parser)
    parser.add_argument('checkpoint', help='any checkpoint of that training')
    parser.add_argument('--out', help="folder to write to (default: the checkpoint's)")
    arguments = parser.parse_args(argv)
    config = read_config(arguments)
    build_student(config, arguments.checkpoint)  # writes nothing that does not fit
    folder = arguments.out or osp.dirname(arguments.checkpoint) or '.'
    name = f'student_{osp.splitext(osp.basename(arguments.checkpoint))[0]}'
    paths = export_student(config, arguments.checkpoint, folder, name)
    print(f'wrote {paths[0]} and {paths[1]}')
    return paths


if __name__ == '__main__':
    main()

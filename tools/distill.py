"""Distil a teacher into a student with one command: write the config, check it, train.

    python tools/distill.py STUDENT_CONFIG --teacher TEACHER_CONFIG --teacher-ckpt FILE
    python tools/distill.py mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py --teacher my_teacher.py \
        --teacher-ckpt my_teacher.pth --data-root path/to/coco_format_data

The config that it writes holds the student's own in `_base_` and the losses: keep it, change it,
and go on with tools/train.py, tools/check.py and tools/test.py. From Python:
`mmdet_detrdistill.distill(student, teacher, teacher_ckpt)`.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Optional, Sequence

import torch
from mmengine.config import DictAction

from mmdet_detrdistill.api import batch_note, train, write_config
from mmdet_detrdistill.check.run import check, reason_of, show
from mmdet_detrdistill.config.read import open_config
from mmdet_detrdistill.config.write import LOSSES, RECOMMENDED


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('student', help='config: a file, or mmdet::folder/file.py')
    parser.add_argument('--teacher', required=True, help='config, likewise')
    parser.add_argument('--teacher-ckpt', help="the teacher's checkpoint")
    parser.add_argument(
        '--random-teacher',
        action='store_true',
        help='no checkpoint yet: write and check, with random teacher weights',
    )
    parser.add_argument(
        '--data-root', help="folder of data in COCO format (default: the data of the student's)"
    )
    parser.add_argument(
        '--losses',
        nargs='+',
        choices=[*LOSSES, 'paper'],
        default=list(RECOMMENDED),
        help="distillation losses; 'paper': those of DETRDistill, logits feature assign (default: "
        'aligned; serve every pair: logits feature)',
    )
    parser.add_argument(
        '--unlabelled', metavar='DIR', help='folder of images without labels to distil on as well'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='settings to write into the config, such as train_cfg.max_epochs=2 '
        'model.architecture.num_queries=100 model.teacher.backbone.depth=50 train_ann=my.json',
    )
    parser.add_argument('--out', help='config to write (default: here, named after both)')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument('--no-train', action='store_true', help='write and check only')
    return parser


def main(argv: Optional[Sequence[str]] = None) -> str:
    """Write, check and train; returns the path of the config."""
    parser = build_parser()
    args = parser.parse_args(argv)
    training = not (args.no_train or args.random_teacher)
    if args.teacher_ckpt is None and not args.random_teacher:
        parser.error('--teacher-ckpt FILE is needed to train; --random-teacher writes and checks')
    options = {} if args.unlabelled is None else dict(unlabelled=args.unlabelled)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        path = write_config(
            args.student,
            args.teacher,
            args.teacher_ckpt or 'teacher.pth',
            data_root=args.data_root,
            losses=args.losses,
            options={**args.cfg_options, **options},
            out=args.out,
        )
        print(f'wrote {path}', flush=True)
        config = open_config(path, needs_data=training)
        note = batch_note(config)
        checked = dict(random_teacher=args.random_teacher, device=device, needs_data=training)
        for rows in check(config, **checked):
            show(rows)
    except Exception as error:  # every reason becomes one line
        sys.exit(f'distill: {reason_of(error)}')
    print(f'FITS\n{note}', flush=True)
    if training:
        train(open_config(path), args.work_dir)
    else:
        print(f'next: python tools/train.py {path}')
    return path


if __name__ == '__main__':
    main()

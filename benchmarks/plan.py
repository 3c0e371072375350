"""What the study trains, and in which order: cells, rows, seeds."""

import os
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

CONFIGS = os.path.join('benchmarks', 'configs')
LOSSES = ('logits', 'feature', 'assign')
SEEDS = (0, 1, 2)


class Cell(NamedTuple):
    """A teacher and a student on one data set.

    Attributes:
        title: what tables call it.
        data: name of the data set; its default place is `data/NAME`.
        configs: beginning of its config files, to which `_teacher.py` and the like are added.
        shapes: arguments of `tools/make_shapes.py`; empty: the data set must be given.
        source: attribution that the data's licence asks for.
        version: raise it when a change alters values; lines of an earlier version do not count.
        teacher_seed: seed of the teacher.
        options: overrides of all its configs.
    """

    title: str
    data: str
    configs: str
    shapes: Sequence[Tuple[str, int]] = ()
    source: str = ''
    version: int = 1
    teacher_seed: int = 0
    options: Sequence[str] = ()

    def config(self, row: str) -> str:
        """Config file of a row, relative to the repository."""
        kinds = {
            'teacher': 'teacher',
            'alone': 'student',
            'ended': 'distilled_ended',
            'unlabelled': 'unlabelled',
        }
        kind = kinds.get(row.split(',')[0], 'distilled')
        return os.path.join(CONFIGS, f'{self.configs}_{kind}.py')

    def overrides(self, row: str) -> List[str]:
        """Words for `--cfg-options`."""
        return [*self.options, *ROWS[row].overrides]


class Row(NamedTuple):
    """One way to train a student.

    Attributes:
        title: what tables call it.
        overrides: of the distilled config.
        teacher: cell whose teacher teaches; '' = the row's own.
    """

    title: str
    overrides: Sequence[str] = ()
    teacher: str = ''


def each(name: str, value: object) -> List[str]:
    """An option of all three losses."""
    return [f'model.distiller.distill_losses.loss_{loss}_kd.{name}={value}' for loss in LOSSES]


def without(*losses: str) -> List[str]:
    return [f'model.distiller.distill_losses.loss_{loss}_kd=None' for loss in losses]


ALIGNED = 'model.distiller.distill_losses.loss_aligned_kd.type=AlignedKDLoss'
ROWS: Dict[str, Row] = {
    'teacher': Row('the teacher'),
    'alone': Row('the student alone'),
    'all': Row('all three losses'),
    'released': Row('all three, preset `released`', each('preset', 'released')),
    'aligned': Row('the aligned loss alone', [*without(*LOSSES), ALIGNED]),
    'logits': Row('the logits loss alone', without('feature', 'assign')),
    'feature': Row('the feature loss alone', without('logits', 'assign')),
    'assign': Row('the assignment loss alone', without('logits', 'feature')),
    'ended': Row('all three, ended for the last quarter'),
    'half': Row('all three, half weight', each('loss_weight', 0.5)),
    'double': Row('all three, double weight', each('loss_weight', 2.0)),
    'unlabelled': Row('all three, other images unlabelled'),
    'all, strong': Row('all three, teacher trained on all labels', teacher='shapes-deformable'),
    'unlabelled, strong': Row(
        'all three, other images unlabelled, teacher trained on all labels',
        teacher='shapes-deformable',
    ),
}
#: options in which the preset `released` differs from `paper`
RELEASED = {
    'logits': {'matching': 'joint', 'negative_cls': True},
    'feature': {
        'similarity': 'cosine',
        'mask': 'summed',
        'quality': 'max_iou',
        'stages': 'all',
        'source': 'neck',
        'exclude_padding': False,
    },
    'assign': {'assignment': 'student', 'references': 'student'},
}
for loss, options in RELEASED.items():
    for name, value in options.items():
        words = [f'model.distiller.distill_losses.loss_{loss}_kd.{name}={value}']
        ROWS[f'{loss} {name}={value}'] = Row(f'all three, {loss} with `{name}={value}`', words)
BASIC = ('teacher', 'alone', 'all')
TENTH = ('unlabelled', 'all, strong', 'unlabelled, strong')
OPTIONS = tuple(row for row in ROWS if '=' in row)
PARTS = tuple(row for row in ROWS if row not in BASIC + TENTH + OPTIONS)
SHAPES_96 = (('--train', 800), ('--val', 400), ('--size', 96), ('--max-objects', 4))
AQUARIUM = (
    'Photographs: "Aquarium Combined" by the Roboflow team, '
    '[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), resized. Several are frames of one '
    'video, so that training and validation images are alike: compare rows, not absolute mAP.'
)
BCCD = (
    'Images: [BCCD](https://github.com/Shenggan/BCCD_Dataset), MIT. Its labels are incomplete: '
    'compare rows, not absolute mAP.'
)
CELLS: Dict[str, Cell] = {
    'shapes-deformable': Cell(
        title='Deformable DETR (refine), wider backbone teaches',
        data='shapes-96',
        configs='shapes/deformable-detr',
        shapes=SHAPES_96,
    ),
    'shapes-deformable-long': Cell(
        title='Deformable DETR (refine), wider backbone teaches, three times as many steps',
        data='shapes-96',
        configs='shapes/deformable-detr',
        shapes=SHAPES_96,
        options=(
            'train_dataloader.batch_size=4',
            'optim_wrapper.optimizer.lr=0.001',
            'train_cfg.max_epochs=36',
            'param_scheduler.1.end=36',
        ),
    ),
    'shapes-tenth': Cell(
        title='Deformable DETR (refine), labels for a tenth of the images',
        data='shapes-96',
        configs='shapes/tenth',
        shapes=SHAPES_96,
    ),
    'shapes-dino': Cell(
        title='DINO, wider backbone teaches',
        data='shapes-96',
        configs='shapes/dino',
        shapes=SHAPES_96,
    ),
    'shapes-conditional': Cell(
        title='Conditional DETR, wider backbone teaches',
        data='shapes-96',
        configs='shapes/conditional-detr',
        shapes=SHAPES_96,
    ),
    'shapes-dab': Cell(
        title='DAB-DETR, wider backbone teaches',
        data='shapes-96',
        configs='shapes/dab-detr',
        shapes=SHAPES_96,
    ),
    'aquarium-deformable': Cell(
        title='Deformable DETR (refine), EfficientNet-Lite0 from Lite1, both pretrained',
        data='aquarium',
        configs='photographs/deformable-detr',
        source=AQUARIUM,
    ),
    'bccd-deformable': Cell(
        title='Deformable DETR (refine), EfficientNet-Lite0 from Lite1, both pretrained',
        data='bccd',
        configs='photographs/deformable-detr',
        source=BCCD,
    ),
}


def jobs() -> Iterator[Tuple[str, str, int]]:
    """(cell, row, seed) in the order in which they are trained: what decides most comes first."""
    first, real = 'shapes-deformable', 'bccd-deformable'
    plan = [('shapes-tenth', BASIC + TENTH), (first, BASIC), (real, BASIC)]
    plan += [(f'shapes-{family}', BASIC) for family in ('conditional', 'dab', 'dino')]
    plan += [(first, PARTS), (real, PARTS), ('aquarium-deformable', BASIC)]
    plan += [('shapes-deformable-long', BASIC), (first, OPTIONS)]
    for cell, rows in plan:
        for seed in SEEDS:
            for row in rows:
                if row != 'teacher' or seed == CELLS[cell].teacher_seed:
                    yield cell, row, seed

"""What the study trains, and in which order: cells, rows, seeds."""

import os
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

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
        teacher: cell whose teacher teaches; '' = its own.
        backbone: cell whose teacher and student, of the teacher's seed, give the backbones of
            teacher and students their first weights; '' = random ones.
        options: overrides of all its configs.
    """

    title: str
    data: str
    configs: str
    shapes: Sequence[Tuple[str, int]] = ()
    source: str = ''
    version: int = 1
    teacher_seed: int = 0
    teacher: str = ''
    backbone: str = ''
    options: Sequence[str] = ()

    def config(self, row: str) -> str:
        """Config file of a row, relative to the repository."""
        return os.path.join(CONFIGS, f'{self.configs}_{ROWS[row].config}.py')

    def overrides(self, row: str) -> List[str]:
        """Words for `--cfg-options`."""
        return [*self.options, *ROWS[row].overrides]


class Row(NamedTuple):
    """One way to train a student.

    Attributes:
        title: what tables call it.
        overrides: of the config.
        config: end of the config file's name, after that of the cell.
        teacher: cell whose teacher teaches; '' = that of the row's cell.
        base: row of which this one changes an option; '' = none.
    """

    title: str
    overrides: Sequence[str] = ()
    config: str = 'distilled'
    teacher: str = ''
    base: str = ''


def option(loss: str, name: str, value: object) -> str:
    return f'model.distiller.distill_losses.loss_{loss}_kd.{name}={value}'


def each(name: str, value: object) -> List[str]:
    """An option of all three losses."""
    return [option(loss, name, value) for loss in LOSSES]


def without(*losses: str) -> List[str]:
    return [f'model.distiller.distill_losses.loss_{loss}_kd=None' for loss in losses]


def schedule(lr: str, epochs: int, images: int = 800) -> Tuple[str, ...]:
    """Longer trainings with batches of 4, on all images or on the first of the shapes."""
    words = (
        'train_dataloader.batch_size=4',
        f'optim_wrapper.optimizer.lr={lr}',
        f'train_cfg.max_epochs={epochs}',
        f'param_scheduler.1.end={epochs}',
    )
    if images == 800:
        return words
    fewer = f'train_dataloader.dataset.indices={images}'
    return (*words, fewer, f'train_cfg.val_interval={epochs // 12}')


ALIGNED = option('aligned', 'type', 'AlignedKDLoss')
ROWS: Dict[str, Row] = {
    'teacher': Row('the teacher', config='teacher'),
    'alone': Row('the student alone', config='student'),
    'all': Row('all three losses'),
    'logits': Row('the logits loss alone', without('feature', 'assign')),
    'feature': Row('the feature loss alone', without('logits', 'assign')),
    'assign': Row('the assignment loss alone', without('logits', 'feature')),
    'aligned': Row('the aligned loss alone', [*without(*LOSSES), ALIGNED]),
    'logits and assign': Row('without the feature loss', without('feature')),
    'logits and aligned': Row(
        'the logits loss and the aligned loss', [*without('feature', 'assign'), ALIGNED]
    ),
    'assign and aligned': Row(
        'the assignment loss and the aligned loss', [*without('logits', 'feature'), ALIGNED]
    ),
    'all and aligned': Row('all three and the aligned loss', [ALIGNED]),
    'released': Row('all three, preset `released`', each('preset', 'released'), base='all'),
    'ended': Row('all three, ended for the last quarter', config='distilled_ended', base='all'),
    'half': Row('all three, half weight', each('loss_weight', 0.5), base='all'),
    'double': Row('all three, double weight', each('loss_weight', 2.0), base='all'),
    'hard negatives': Row(
        "all three, logits with `negatives='hard'`",
        [option('logits', 'negatives', 'hard')],
        base='all',
    ),
    'object masks': Row(
        "all three, feature with `mask='ground_truth'`",
        [option('feature', 'mask', 'ground_truth')],
        base='all',
    ),
    'adaptive': Row(
        'all three, each held at half of the task loss', config='distilled_adaptive', base='all'
    ),
    'random boxes': Row(
        'the aligned loss, random boxes too', config='distilled_random_boxes', base='aligned'
    ),
    'object boxes': Row(
        'the aligned loss, boxes of objects too', config='distilled_object_boxes', base='aligned'
    ),
    **{
        f'aligned, {word}': Row(
            f'the aligned loss alone, {word} weight',
            [*without(*LOSSES), ALIGNED, option('aligned', 'loss_weight', weight)],
            base='aligned',
        )
        for word, weight in (('half', 0.5), ('double', 2.0))
    },
    'unlabelled': Row('all three, other images unlabelled', config='unlabelled'),
    'all, strong': Row('all three, teacher trained on all labels', teacher='shapes-deformable'),
    'unlabelled, strong': Row(
        'all three, other images unlabelled, teacher trained on all labels',
        config='unlabelled',
        teacher='shapes-deformable',
    ),
}
BASIC = ('teacher', 'alone', 'all')
RECIPE = ('teacher', 'alone', 'aligned')
TENTH = ('unlabelled', 'all, strong', 'unlabelled, strong')
SINGLE = ('logits', 'feature', 'assign', 'aligned')
PAIRS = ('logits and assign', 'logits and aligned', 'assign and aligned', 'all and aligned')
WEIGHTS = ('aligned, half', 'aligned, double')
OPTIONS = ('ended', 'half', 'double', 'released', 'hard negatives', 'object masks', 'adaptive')
#: converged, and not among those on which the recipe was chosen
RELEASED = ('shapes-400-deformable', 'aquarium-deformable', 'shapes-300-dab')
BOXES = ('random boxes', 'object boxes')  # need queries with anchors
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


def on_shapes(title: str, family: str, **more: Any) -> Cell:
    return Cell(title, 'shapes-96', f'shapes/{family}', SHAPES_96, **more)


def on_fewer(title: str, family: str, lr: str, epochs: int, images: int = 400, **more: Any) -> Cell:
    """Longer, on the first of the 800 images."""
    options = schedule(lr, epochs, images)
    return on_shapes(f'{title}, {images} images', family, options=options, **more)


CELLS: Dict[str, Cell] = {
    'shapes-deformable': on_shapes(
        'Deformable DETR (refine), wider backbone teaches', 'deformable-detr'
    ),
    'shapes-deformable-long': on_shapes(
        'Deformable DETR (refine), wider backbone teaches, three times as many steps',
        'deformable-detr',
        options=schedule('0.001', epochs=36),
    ),
    'shapes-400-deformable': on_fewer(
        'Deformable DETR (refine), wider backbone teaches', 'deformable-detr', '0.001', epochs=60
    ),
    'shapes-400-dino': on_fewer(
        'DINO, wider backbone teaches',
        'dino',
        '0.0002',
        epochs=48,
        version=2,
        backbone='shapes-400-deformable',
    ),
    'shapes-400-dino-one-layer': on_fewer(
        'DINO, one decoder layer from three and a wider backbone',
        'dino-one-layer',
        '0.0002',
        epochs=48,
        teacher='shapes-400-dino',
        backbone='shapes-400-deformable',
    ),
    'shapes-300-conditional': on_fewer(
        'Conditional DETR, wider backbone teaches',
        'conditional-detr-cosine',
        '0.00025',
        epochs=96,
        images=300,
        version=2,
        backbone='shapes-400-deformable',
    ),
    'shapes-300-dab': on_fewer(
        'DAB-DETR, wider backbone teaches',
        'dab-detr-cosine',
        '0.00025',
        epochs=96,
        images=300,
        backbone='shapes-400-deformable',
    ),
    'shapes-tenth': on_shapes(
        'Deformable DETR (refine), labels for a tenth of the images', 'tenth'
    ),
    'shapes-dino': on_shapes('DINO, wider backbone teaches', 'dino'),
    'shapes-conditional': on_shapes('Conditional DETR, wider backbone teaches', 'conditional-detr'),
    'shapes-dab': on_shapes('DAB-DETR, wider backbone teaches', 'dab-detr'),
    'bccd-dino': Cell(
        title='DINO, EfficientNet-Lite0 from Lite1, both pretrained',
        data='bccd',
        configs='photographs/dino',
        source=BCCD,
    ),
    'bccd-dino-one-layer': Cell(
        title='DINO, one decoder layer from six, EfficientNet-Lite0 from Lite1, both pretrained',
        data='bccd',
        configs='photographs/dino-one-layer',
        source=BCCD,
        teacher='bccd-dino',
    ),
    'bccd-deformable': Cell(
        title='Deformable DETR (refine), EfficientNet-Lite0 from Lite1, both pretrained',
        data='bccd',
        configs='photographs/deformable-detr',
        source=BCCD,
    ),
    'aquarium-deformable': Cell(
        title='Deformable DETR (refine), EfficientNet-Lite0 from Lite1, both pretrained',
        data='aquarium',
        configs='photographs/deformable-detr',
        source=AQUARIUM,
        version=2,
        options=schedule('0.001', epochs=64),
    ),
}


def jobs() -> Iterator[Tuple[str, str, int]]:
    """(cell, row, seed) in the order in which they are trained: what decides most comes first."""
    first, real = 'shapes-deformable', 'bccd-deformable'
    plan = [('shapes-tenth', BASIC + TENTH), (first, BASIC), (real, BASIC)]
    plan += [(first, SINGLE + PAIRS)]
    plan += [(f'shapes-{family}', RECIPE) for family in ('conditional', 'dab', 'dino')]
    plan += [('bccd-dino', RECIPE[:1]), ('bccd-dino-one-layer', RECIPE[1:])]
    plan += [('shapes-deformable-long', RECIPE)]
    plan += [('shapes-400-deformable', RECIPE)]
    plan += [('shapes-400-dino', RECIPE[:1]), ('shapes-400-dino-one-layer', RECIPE[1:])]
    plan += [('shapes-300-conditional', RECIPE), ('shapes-300-dab', RECIPE)]
    plan += [('aquarium-deformable', RECIPE), (first, WEIGHTS + OPTIONS), ('shapes-dab', BOXES)]
    plan += [(real, SINGLE + WEIGHTS + ('released',))]
    plan += [(name, ('released',)) for name in RELEASED]
    plan += [('shapes-conditional', ('all',))]
    for cell, rows in plan:
        for seed in SEEDS:
            for row in rows:
                if row != 'teacher' or seed == CELLS[cell].teacher_seed:
                    yield cell, row, seed

"""Breaks the losses on purpose, one bug at a time, and sees named tests fail.

    python tests/planted_bugs.py

Works on a temporary copy, never on the working tree. Every named test has to fail under its bug
and to pass without it; a bug whose text is no longer in the source is an error as well. Prints a
table; exit status 1 when a bug goes unnoticed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable, NamedTuple, Sequence, Set, Tuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path('mmdet_detrdistill')
TESTS = Path('tests')
FUNCTIONAL = Path('functional')  # below the package and below its tests
SUPPORT = (
    '__init__.py',
    'allocation.py',
    'reference.py',
    'reference_aligned.py',
    'reference_terms.py',
)


class Bug(NamedTuple):
    """Replace `old`, which occurs once in `file`, by `new`; each of `tests` shall fail.

    The paths are below `FUNCTIONAL`, or below package and tests in `PACKAGE_BUGS`.
    """

    name: str
    file: str
    old: str
    new: str
    tests: Tuple[str, ...]


BUGS = (
    Bug(
        'width and height swapped in the box conversion',
        'boxes.py',
        'centre, size = boxes.split(2, -1)',
        'centre, size = boxes[..., :2], boxes[..., 2:].flip(-1)',
        (
            'test_boxes.py::test_convention_cxcywh_to_xyxy',
            'test_logits_kd_conventions.py::test_convention_boxes_are_cxcywh',
            'test_query_quality.py::test_convention_boxes_are_cxcywh',
            'test_assign_kd_conventions.py::test_convention_boxes_are_cxcywh',
        ),
    ),
    Bug(
        'entropy not taken off the class term',
        'classes.py',
        ' - target_entropy(targets, activation)',
        '',
        ('test_classes.py::test_zero_at_equality',),
    ),
    Bug(
        'entropy not taken off the class term',
        'logits_kd.py',
        'activation) - entropy, options',
        'activation), options',
        ('test_logits_kd.py::test_zero_at_equality',),
    ),
    Bug(
        'background read from the first channel',
        'classes.py',
        'logits.softmax(-1)[..., :-1]',
        'logits.softmax(-1)[..., 1:]',
        ('test_classes.py::test_convention_softmax_background_is_last',),
    ),
    Bug(
        'matching ignores which student queries take part',
        'matching.py',
        '(keep_rows[stage, image].nonzero()[0], ',
        '(np.arange(cost.shape[2]), ',
        (
            'test_matching.py::test_convention_mask_true_is_kept',
            'test_logits_kd_conventions.py::test_convention_student_mask_true_is_kept',
        ),
    ),
    Bug(
        'an object that kept its query counts as changed',
        'stability.py',
        '(before != after)',
        '(before == after)',
        ('test_stability.py::test_value_by_hand', 'test_stability.py::test_zero_at_equality'),
    ),
    Bug(
        'background queries take an object',
        'stability.py',
        'assignment.masked_fill(assignment < 0, num_objects)',
        'assignment.clamp(min=0)',
        ('test_stability.py::test_queries_of_objects_inverts_the_assignment',),
    ),
    Bug(
        'stages paired by index instead of by group',
        'stages.py',
        'first = stage * num_teacher // num_student',
        'first = min(stage, num_teacher - 1)',
        (
            'test_stages.py::test_value_by_hand',
            'test_logits_kd.py::test_equals_reference_for_stages',
        ),
    ),
    Bug(
        'one joint assignment instead of two',
        'logits_kd.py',
        "if options.matching == 'joint':",
        'if options.matching:',
        (
            'test_logits_kd_conventions.py::test_convention_matching',
            'test_logits_kd.py::test_no_objects',
        ),
    ),
    Bug(
        'student and teacher swapped in the divergence',
        'logits_kd.py',
        'cross_entropy(logits, stages.targets, activation) - entropy',
        'cross_entropy(stages.targets.logit(), logits.sigmoid(), activation) - entropy',
        (
            'test_logits_kd.py::test_value_by_hand',
            'test_logits_kd_conventions.py::test_convention_student_first',
        ),
    ),
    Bug(
        'teacher boxes not detached',
        'logits_kd.py',
        'cxcywh_to_xyxy(teacher.boxes.detach())',
        'cxcywh_to_xyxy(teacher.boxes)',
        ('test_logits_kd.py::test_teacher_gets_no_gradient',),
    ),
    Bug(
        'teacher boxes not cut at the image',
        'logits_kd.py',
        'cxcywh_to_xyxy(teacher.boxes.detach()).clamp(0, 1)',
        'cxcywh_to_xyxy(teacher.boxes.detach())',
        ('test_logits_kd_conventions.py::test_convention_teacher_boxes_are_cut_at_the_image',),
    ),
    Bug(
        'sum over pairs not divided by their number',
        'stages.py',
        '.sum((2, 3)) / normalisers',
        '.sum((2, 3))',
        (
            'test_logits_kd.py::test_batch_equals_single',
            'test_logits_kd_conventions.py::test_convention_denominator_is_the_number_of_pairs',
        ),
    ),
    Bug(
        'exponents of score and IoU swapped',
        'feature_kd.py',
        'scores**options.gamma * iou ** (1 - options.gamma)',
        'scores ** (1 - options.gamma) * iou**options.gamma',
        ('test_query_quality.py::test_convention_gamma_is_the_exponent_of_the_score',),
    ),
    Bug(
        'background queries take the IoU of some object',
        'feature_kd.py',
        'quality.masked_fill(assignment < 0, 0)',
        'quality',
        ('test_query_quality.py::test_convention_negative_index_is_no_object',),
    ),
    Bug(
        'padded pixels count',
        'feature_kd.py',
        'weights = weights * valid',
        'weights = weights * torch.ones_like(valid)',
        (
            'test_feature_kd_conventions.py::test_convention_valid_mask_true_is_kept',
            'test_feature_kd_conventions.py::test_convention_padding_does_not_matter',
        ),
    ),
    Bug(
        'padded pixels decide the largest mask value',
        'feature_kd.py',
        'summed * _one_row(valid_masks, 1).unsqueeze(1)',
        'summed.clone()',
        ('test_feature_kd_conventions.py::test_convention_padding_does_not_matter',),
    ),
    Bug(
        'loss per query not divided by their number',
        'feature_kd.py',
        ', weighted, teacher_queries) / quality.shape[2]',
        ', weighted, teacher_queries)',
        (
            'test_feature_kd.py::test_equals_known_limit',
            'test_feature_kd_conventions.py::test_convention_denominators',
        ),
    ),
    Bug(
        'one mask per query materialised (the same value)',
        'feature_kd.py',
        'mask = product.mul_(pixels).sum(1)',
        "mask = torch.einsum('lbnc,bcp->lbnp', teacher_queries, pixels).square()\n"
        '        mask = (mask * quality.unsqueeze(-1)).sum((0, 2)) / quality.shape[2]',
        ('test_feature_kd.py::test_memory_does_not_grow_with_queries',),
    ),
    Bug(
        'prices of another problem kept where they are not optimal',
        'linear_assignment.py',
        'duals.shape[0] != num_columns or rows.shape[0] != num_columns',
        'duals.shape[0] != num_columns',
        ('test_linear_assignment.py::test_shapes_may_change_within_a_chain',),
    ),
    Bug(
        'a row bids more than it gains by its column',
        'shortest_paths.py',
        'duals[column] -= second - low',
        'duals[column] -= 2 * (second - low)',
        ('test_linear_assignment.py::test_equals_scipy',),
    ),
    Bug(
        'prices moved the wrong way',
        'shortest_paths.py',
        '+= length[k] - low',
        '+= low - length[k]',
        ('test_linear_assignment.py::test_equals_scipy',),
    ),
    Bug(
        'assignment of the wrong teacher stage',
        'assign_kd.py',
        'pick_stages(assignment, pairs.teacher)',
        'pick_stages(assignment, [0] * len(pairs.teacher))',
        (
            'test_assign_kd.py::test_equals_reference_for_stages',
            'test_assign_kd_conventions.py::test_convention_stages_are_summed_and_groups_averaged',
        ),
    ),
    Bug(
        'height and width of the image swapped',
        'assign_kd.py',
        '.flip(-1).repeat(1, 2)',
        '.repeat(1, 2)',
        (
            'test_assign_kd_conventions.py'
            '::test_convention_bbox_gets_cxcywh_and_iou_corners_in_pixels',
        ),
    ),
    Bug(
        'normaliser counts background queries in full',
        'assign_kd.py',
        'lerp(num_all, criterion.background_weight)',
        'lerp(num_all, 1.0)',
        (
            'test_assign_kd.py::test_value_by_hand',
            'test_assign_kd.py::test_equals_known_limit',
            'test_assign_kd_conventions.py::test_convention_denominators',
        ),
    ),
    Bug(
        'easy negatives taken for hard ones',
        'logits_kd.py',
        'gt_boxes) > options.hard_giou',
        'gt_boxes) <= options.hard_giou',
        (
            'test_hard_negatives.py::test_value_by_hand',
            'test_hard_negatives.py::test_equals_reference',
        ),
    ),
    Bug(
        'normalised feature loss not relative to the features',
        'feature_kd.py',
        'mean.masked_fill(mean == 0, 1) * power',
        'mean.masked_fill(mean == 0, 1)',
        (
            'test_feature_kd_conventions.py::test_convention_normalize_by_hand',
            'test_feature_kd_conventions.py'
            '::test_convention_normalized_size_is_that_of_the_error_alone',
        ),
    ),
    Bug(
        'confidence is the mean class score',
        'aligned_kd.py',
        'scores.amax(-1)',
        'scores.mean(-1)',
        (
            'test_aligned_kd.py::test_mean_weighted_with_the_confidence_by_hand',
            'test_aligned_kd.py::test_one_set_of_queries_equals_reference',
        ),
    ),
    Bug(
        'mask of the objects transposed',
        'feature_kd.py',
        'in_row = (y1 * height < rows + 1) & (y2 * height > rows)',
        'in_row = (x1 * height < rows + 1) & (x2 * height > rows)',
        (
            'test_feature_kd_conventions.py::test_object_masks_by_hand',
            'test_feature_kd_conventions.py::test_object_masks_equal_reference',
        ),
    ),
    Bug(
        'a normaliser below 1 makes a loss larger',
        'stages.py',
        'counts.clamp(min=1)',
        'counts.masked_fill(counts == 0, 1)',
        ('test_assign_kd_conventions.py::test_convention_normalisers_are_at_least_one',),
    ),
)


PACKAGE_BUGS = (
    Bug(
        'each process follows its own measurements',
        'hooks/adaptive_weight.py',
        "        all_reduce(values, op='mean')\n",
        '',
        ('hooks/test_adaptive_weight.py::test_two_ranks_keep_equal_weights_also_after_a_resume',),
    ),
    Bug(
        'matching and boxes follow mixed precision',
        'losses/base.py',
        'torch.autocast(like.device.type, enabled=False)',
        'torch.autocast(like.device.type, enabled=torch.is_autocast_cpu_enabled())',
        ('test_runtime.py::test_matching_boxes_and_masks_stay_in_float32',),
    ),
    Bug(
        'injected queries of one rule see those of another',
        'detectors/base.py',
        'owners.unsqueeze(1) != owners)',
        'owners.unsqueeze(1) != owners.unsqueeze(1))',
        ('losses/test_shared_boxes.py::test_queries_of_a_set_do_not_see_another',),
    ),
    Bug(
        'noise in one direction only',
        'losses/injection/shared_boxes.py',
        '(2 * self.draw(boxes) - 1)',
        'self.draw(boxes)',
        ('losses/test_shared_boxes.py::test_noise_by_hand',),
    ),
    Bug(
        'queries of an image without objects count',
        'losses/injection/shared_boxes.py',
        'count > 0',
        'count >= 0',
        (
            'losses/test_shared_boxes.py::test_noise_by_hand',
            'losses/test_shared_boxes.py::test_terms_equal_reference',
        ),
    ),
)


def copy_functional(folder: Path) -> None:
    """The functional layer and its tests, on their own: nothing else has to be imported."""
    ignore = shutil.ignore_patterns('__pycache__')
    for part in (PACKAGE, TESTS):
        shutil.copytree(ROOT / part / FUNCTIONAL, folder / part / FUNCTIONAL, ignore=ignore)
    (folder / PACKAGE / '__init__.py').touch()
    for name in SUPPORT:
        shutil.copy(ROOT / TESTS / name, folder / TESTS / name)


def copy_package(folder: Path) -> None:
    """The whole package and its tests."""
    for part in (PACKAGE, TESTS):
        ignore = shutil.ignore_patterns('__pycache__', '.mim')
        shutil.copytree(ROOT / part, folder / part, ignore=ignore)


def plant(path: Path, bug: Bug) -> str:
    """Put a bug into a file of the copy; returns the sound text."""
    sound = path.read_text()
    if sound.count(bug.old) != 1:
        raise SystemExit(
            f'{bug.file} has {sound.count(bug.old)} times {bug.old!r}, expected once: adjust the '
            f'planted bug {bug.name!r} in {Path(__file__).name}'
        )
    path.write_text(sound.replace(bug.old, bug.new))
    return sound


def failing(folder: Path, below: Path, tests: Sequence[str]) -> Set[str]:
    """Which of the named tests fail in the copy (in at least one of their parametrisations)."""
    names = [(TESTS / below / test).as_posix() for test in tests]
    command = ['-m', 'pytest', '-q', '--tb=no', '-rf', '-p', 'no:cacheprovider', *names]
    environment = {
        **os.environ,
        'PYTHONPATH': str(folder),
        'PYTHONDONTWRITEBYTECODE': '1',
        'OMP_NUM_THREADS': '1',
    }
    result = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    # 0 all passed, 1 some failed; anything else is no verdict on the named tests.
    if result.returncode not in (0, 1):
        raise SystemExit(f'pytest stopped:\n{result.stdout}{result.stderr}')
    failed = [line.split()[1] for line in result.stdout.splitlines() if line.startswith('FAILED ')]
    return {
        test for test, name in zip(tests, names) if any(f.split('[')[0] == name for f in failed)
    }


def count_noticed(copy: Callable[[Path], None], below: Path, bugs: Sequence[Bug]) -> int:
    """How many bugs, planted in a fresh copy, fail every test that is named for them."""
    every_test = sorted({test for bug in bugs for test in bug.tests})
    noticed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy(folder)
        (folder / 'pytest.ini').write_text('[pytest]\n')
        broken = failing(folder, below, every_test)
        if broken:
            raise SystemExit(f'failing without any planted bug: {sorted(broken)}')
        for bug in bugs:
            path = folder / PACKAGE / below / bug.file
            sound = plant(path, bug)
            caught = failing(folder, below, bug.tests)
            path.write_text(sound)
            noticed += len(caught) == len(bug.tests)
            print(f'{bug.file}: {bug.name}')
            for test in bug.tests:
                print(f'    {"fails" if test in caught else "PASSES (unnoticed)"}  {test}')
    return noticed


def main() -> int:
    noticed = count_noticed(copy_functional, FUNCTIONAL, BUGS)
    noticed += count_noticed(copy_package, Path(), PACKAGE_BUGS)
    total = len(BUGS) + len(PACKAGE_BUGS)
    print(f'{noticed} of {total} planted bugs noticed by every test named for them')
    return 1 if noticed < total else 0


if __name__ == '__main__':
    raise SystemExit(main())

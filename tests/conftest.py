"""What all tests share."""

import os
from pathlib import Path

import pytest

from tests.browser import browser  # noqa: F401

TESTS = Path(__file__).parent
IN_CI = os.environ.get('CI') == 'true'
MAY_BE_MISSING = 'needs a GPU'  # the only reason to skip a test in CI
#: tests of whole programs, trainings and every pair: `make unit` leaves these folders and files out
SLOW = (
    'benchmarks',
    'check/test_smallest.py',
    'checkpoints/test_resume.py',
    'compat',
    'config/test_launch.py',
    'distillation/test_algorithm.py',
    'distillation/test_processes.py',
    'distillation/test_teacher_pass.py',
    'distillation/test_unequal.py',
    'distillation/test_unlabelled_training.py',
    'docs',
    'hooks/test_adaptive_weight.py',
    'hooks/test_iteration_seed.py',
    'hooks/test_student_checkpoint.py',
    'mim',
    'test_coco_cc.py',
    'test_configs.py',
    'test_faults.py',
    'test_faults_of_users.py',
    'test_ghost.py',
    'test_mmrazor_pipelines.py',
    'test_own_project.py',
    'test_packaging.py',
    'test_runtime.py',
    'test_support.py',
    'tools',
)


def pytest_collection_modifyitems(items):
    for item in items:
        path = item.path.relative_to(TESTS)
        if any(str(part) in SLOW for part in (path, *path.parents)):
            item.add_marker(pytest.mark.slow)


def fail_if_skipped(report):
    """In CI everything is there, so that a test which finds a part missing has failed."""
    if not IN_CI or report.outcome != 'skipped' or hasattr(report, 'wasxfail'):
        return
    where, line, reason = report.longrepr
    if MAY_BE_MISSING not in reason:
        report.outcome = 'failed'
        report.longrepr = f'{where}:{line}: skipped in CI: {reason}'


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    fail_if_skipped((yield).get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report():
    fail_if_skipped((yield).get_result())


@pytest.fixture(scope='session', autouse=True)
def _unformatted_configs():
    from tests.trainings import unformatted_configs

    with unformatted_configs():
        yield


@pytest.fixture(scope='module', autouse=True)
def _visualizers_of_the_module():
    """MMEngine takes the newest visualizer of the process for the current one, whoever made it."""
    from mmengine.visualization import Visualizer

    Visualizer._instance_dict.clear()


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """A finished tiny distillation: `data`, `teacher.pth`, and the files of `config` in `whole`.

    As a namespace with `folder`, `config` and `output`.
    """
    from types import SimpleNamespace

    from tests import trainings

    folder = tmp_path_factory.mktemp('trained')
    trainings.draw_images(folder / 'data')
    trainings.save_teacher(folder / 'teacher.pth')
    config = trainings.distillation(folder / 'data', folder / 'teacher.pth')
    config.default_hooks.checkpoint.save_best = 'coco/bbox_mAP'
    config.custom_hooks = [
        dict(type='TeacherCheckHook', min_map=0.0, num_images=1),
        dict(type='StudentCheckpointHook'),
        dict(type='LossWeightScheduleHook', factors=dict(loss_feature_kd=[(0, 0), (2, 1)])),
        dict(type='mmrazor.StopDistillHook', stop_epoch=2),
    ]
    ended = trainings.run_training(config, folder / 'whole')
    assert ended.code == 0, ended.output
    return SimpleNamespace(folder=folder, config=config, output=ended.output)

"""What all tests share."""

import os

import pytest

IN_CI = os.environ.get('CI') == 'true'
MAY_BE_MISSING = 'needs a GPU'  # the only reason to skip a test in CI


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

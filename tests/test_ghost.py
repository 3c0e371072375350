"""What holds on a GPU, shown without one: `tests/ghost` in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ghost import device

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(
    not device.AVAILABLE, reason='PyTorch before 2.10: the second device needs a GPU or a newer one'
)
def test_on_a_second_device():
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '-p',
        'no:cacheprovider',
        'tests/ghost/suite.py',
        'tests/ghost/training.py',
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:]

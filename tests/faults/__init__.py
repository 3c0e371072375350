"""Faults made on purpose; `python -m tests.faults`."""

from tests.faults import checkpoints, inputs, interruptions  # noqa: F401  each adds its cases
from tests.faults.cases import CASES, Place, Result

__all__ = ['CASES', 'Place', 'Result']

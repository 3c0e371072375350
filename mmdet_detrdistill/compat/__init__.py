"""What has to hold before the rest of the package can be imported."""

from .checkpoint import (
    CheckpointError,
    allow_checkpoint_types,
    load_checkpoint_file,
    load_state_strictly,
    load_strictly,
    refuse_unfit_state,
)
from .environment import check_environment
from .mmrazor import import_mmrazor

check_environment()
allow_checkpoint_types()
import_mmrazor()

__all__ = [
    'CheckpointError',
    'allow_checkpoint_types',
    'check_environment',
    'import_mmrazor',
    'load_checkpoint_file',
    'load_state_strictly',
    'load_strictly',
    'refuse_unfit_state',
]

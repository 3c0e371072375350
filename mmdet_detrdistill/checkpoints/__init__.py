"""Checkpoints: read safely, loaded strictly, resumed, and exported as the plain student."""

from .read import (
    CheckpointError,
    allow_checkpoint_types,
    load_checkpoint_file,
    load_state_strictly,
    load_strictly,
    refuse_unfit_state,
)

allow_checkpoint_types()

__all__ = [
    'CheckpointError',
    'allow_checkpoint_types',
    'load_checkpoint_file',
    'load_state_strictly',
    'load_strictly',
    'refuse_unfit_state',
]

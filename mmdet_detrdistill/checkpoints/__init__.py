"""Checkpoints: read safely, loaded strictly, resumed, and exported as the plain student."""

from .read import allow_checkpoint_types

allow_checkpoint_types()

"""What has to hold before the rest of the package can be imported."""

from .environment import check_environment
from .mmrazor import import_mmrazor

check_environment()
import_mmrazor()

__all__ = ['check_environment', 'import_mmrazor']

"""MMRazor 1.0.0 on PyTorch 2.x.

Two things of MMRazor 1.0.0 stop it from importing today, and neither is used in distillation. Its
tables of quantization operators name things that PyTorch 2 moved: when, and only when, they fail to
import, a placeholder stands in for `mmrazor.structures.quantization`. And it asserts mmcv <= 2.1.0:
for the length of that one import, a newer mmcv reports 2.1.0. What else it needs is in `repairs`.
"""

import importlib
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Iterator

from .repairs import repair_mmrazor

QUANTIZATION = 'mmrazor.structures.quantization'
NEWEST_MMCV = '2.1.0'  # the newest that MMRazor 1.0.0 accepts


class Unavailable:
    """A placeholder for a name of MMRazor's quantization; any use of it raises ImportError."""

    def __init__(self, name: str, reason: str) -> None:
        self.__name__ = name
        self._reason = reason

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise ImportError(
            f'{QUANTIZATION}.{self.__name__} is not available: MMRazor 1.0.0 cannot import its '
            f'quantization with this PyTorch ({self._reason}). Distillation does not need it; for '
            'quantization use PyTorch 1.13.'
        )

    __call__ = __getitem__ = _refuse

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(name)
        return self._refuse()


def quantization_placeholder(reason: str) -> ModuleType:
    """Make a package with the names that MMRazor's models import from its quantization."""
    module = ModuleType(QUANTIZATION, 'Placeholder: the real package does not import here.')
    module.__path__ = []
    module.__all__ = ['BackendConfigs', 'QConfigHandler']  # type: ignore[attr-defined]
    for name in module.__all__:
        setattr(module, name, Unavailable(name, reason))
    return module


@contextmanager
def accepted_mmcv_version() -> Iterator[None]:
    """Let a newer mmcv report the newest version that MMRazor accepts."""
    import mmcv
    from mmengine.utils import digit_version

    version = mmcv.__version__
    if digit_version(version) > digit_version(NEWEST_MMCV):
        mmcv.__version__ = NEWEST_MMCV
    try:
        yield
    finally:
        mmcv.__version__ = version


def import_mmrazor() -> None:
    """Import MMRazor's models and engine, with a placeholder for its quantization if it needs one.

    Does nothing more the second time.

    Raises:
        ImportError: MMRazor does not import for another reason.
    """
    with accepted_mmcv_version():
        import mmrazor  # noqa: F401
    try:
        importlib.import_module(QUANTIZATION)
    except (ImportError, AttributeError) as reason:
        for name in [name for name in sys.modules if name.startswith(QUANTIZATION)]:
            del sys.modules[name]
        placeholder = quantization_placeholder(str(reason))
        sys.modules[QUANTIZATION] = placeholder
        importlib.import_module('mmrazor.structures').quantization = placeholder  # type: ignore
    importlib.import_module('mmrazor.models')
    importlib.import_module('mmrazor.engine')
    repair_mmrazor()

"""From a detector to the adapter that walks it."""

from typing import Callable, Dict, Type

from torch import nn

from .base import DetectorAdapter

_ADAPTERS: Dict[str, Type[DetectorAdapter]] = {'DetectionTransformer': DetectorAdapter}


def register_adapter(detector: str) -> Callable[[Type[DetectorAdapter]], Type[DetectorAdapter]]:
    """Class decorator: the adapter for detectors whose class, or nearest base, has this name."""

    def register(adapter: Type[DetectorAdapter]) -> Type[DetectorAdapter]:
        _ADAPTERS[detector] = adapter
        return adapter

    return register


def build_adapter(detector: nn.Module, side: str = 'student') -> DetectorAdapter:
    """The registered adapter of the nearest class of `detector`; a plain subclass needs none.

    Raises:
        TypeError: no known family; names the stages that the detector lacks.
    """
    for cls in type(detector).__mro__:
        if cls.__name__ in _ADAPTERS:
            return _ADAPTERS[cls.__name__](detector, side)
    return DetectorAdapter(detector, side)

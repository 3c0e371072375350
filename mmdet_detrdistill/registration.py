"""Register a class under its own name in MMDetection's and in MMRazor's registry of one kind."""

from typing import Callable, Type, TypeVar

import mmdet.registry
import mmrazor.registry

T = TypeVar('T')


def register(kind: str) -> Callable[[Type[T]], Type[T]]:
    """Class decorator; `kind` names the registry: 'MODELS', 'TASK_UTILS' or 'HOOKS'.

    Importing twice is harmless, so that `custom_imports` may name the package beside `import`.
    """

    def decorate(cls: Type[T]) -> Type[T]:
        for package in (mmdet.registry, mmrazor.registry):
            getattr(package, kind).register_module(module=cls, force=True)
        return cls

    return decorate

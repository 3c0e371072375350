"""Registration in MMDetection's and MMRazor's registries, and the scope `mmdet_detrdistill`.

MMEngine resolves `_base_ = 'mmdet_detrdistill::...'` when the package is in its table of projects,
and builds what such a config holds in the package's own registries. Ours are empty children of
MMDetection's, so that every type is looked up there. In effect once this package is imported.
"""

from typing import Callable, Type, TypeVar

import mmdet.registry
import mmrazor.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

SCOPE = 'mmdet_detrdistill'
T = TypeVar('T')

MODULE2PACKAGE.setdefault(SCOPE, SCOPE)
for _parent in list(vars(mmdet.registry).values()):
    if isinstance(_parent, Registry) and SCOPE not in _parent.children:
        Registry(_parent.name, parent=_parent, scope=SCOPE)


def register(kind: str) -> Callable[[Type[T]], Type[T]]:
    """Register a class under its own name in both packages' registries of one kind.

    Registering twice is harmless, so that `custom_imports` may name the package beside `import`.

    Args:
        kind: the registry's name: 'MODELS', 'TASK_UTILS', 'HOOKS', ...
    """

    def decorate(cls: Type[T]) -> Type[T]:
        for package in (mmdet.registry, mmrazor.registry):
            getattr(package, kind).register_module(module=cls, force=True)
        return cls

    return decorate

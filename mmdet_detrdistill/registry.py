"""Registration in MMDetection's and MMRazor's registries, and the scope `mmdet_detrdistill`.

MMEngine resolves `_base_ = 'mmdet_detrdistill::...'` when the package is in its table of projects,
and builds what such a config holds in the package's own registries. Ours are empty children of
MMDetection's, so that every type is looked up there. In effect once this package is imported.
"""

from typing import Any, Callable, Iterator, Type, TypeVar

import mmdet.registry
import mmengine.registry
import mmrazor.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DefaultScope, Registry

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


def class_of(kind: str, config: Any) -> Any:
    """Return the class that a config's `type` names, given as a class or by name.

    Args:
        kind: the registry's name: 'MODELS', 'TASK_UTILS', 'HOOKS', ...
        config: a dict with a `type`, or that type: a class, a registered name of any scope, or a
            dotted path. A plain name means MMDetection's, then MMRazor's, then another's.

    Returns:
        The class (or function); None for anything else, and for a name that nothing has.
    """
    found = config.get('type') if isinstance(config, dict) else config
    if not isinstance(found, str):
        return found if callable(found) else None
    try:
        for package in (mmdet.registry, mmrazor.registry):
            known = getattr(package, kind).get(found)
            if callable(known):
                return known
    except RuntimeError:  # a dotted path that leads nowhere
        return None
    others = _descendants(getattr(mmengine.registry, kind))
    return next((scope.module_dict[found] for scope in others if found in scope.module_dict), None)


def _descendants(registry: Registry) -> Iterator[Registry]:
    for child in registry.children.values():
        yield child
        yield from _descendants(child)


def scope_of(config: Any = None) -> Any:
    """Build detectors and data in a config's `default_scope`, else in MMDetection's.

    Args:
        config: None takes the scope that is set already, as by a `Runner`.
    """
    if config is None:
        current = DefaultScope.get_current_instance()
        name = None if current is None else current.scope_name
    else:
        name = config.get('default_scope')
    outside = name in (None, 'mmengine', 'mmrazor')  # where no detector is registered
    return DefaultScope.overwrite_default_scope('mmdet' if outside else name)

"""Calls for which a GPU would be waited for, counted on any device."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DOWN = {
    'item', 'tolist', 'numpy', 'cpu', 'nonzero', 'masked_select', 'unique', 'argwhere',
    '__bool__', '__int__', '__float__', '__index__', '__contains__',
}  # fmt: skip
UP = {'tensor', 'new_tensor', 'as_tensor', 'from_numpy'}


class Synchronisations(TorchFunctionMode):
    """Counts reads of values on the host (`.item()`, `if tensor`, an index by a mask ...) and
    tensors made of Python numbers, by name. Operators called from C++ are not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, '__name__', '')
        if name in DOWN or (name in UP and not _is_tensor(args[-1:])):
            self.calls[name] += 1
        if name in ('__getitem__', '__setitem__') and _by_value(args[1]):
            self.calls['index by values'] += 1
        return func(*args, **(kwargs or {}))


def _is_tensor(values: Any) -> bool:
    return any(isinstance(value, Tensor) for value in values)


def _by_value(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(
        isinstance(part, list) or (isinstance(part, Tensor) and part.dtype == torch.bool)
        for part in parts
    )

"""How large the tensors are that a computation allocates."""

from typing import Callable

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class LargestStorage(TorchDispatchMode):
    """Records the largest storage, in bytes, among the results of all operators inside.

    Views count by what they view: an expanded tensor is as large as its source.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_flatten(result)[0]:
            if isinstance(value, Tensor):
                # PyTorch 1.13 has the typed one only
                storage = getattr(value, 'untyped_storage', value.storage)()
                self.num_bytes = max(self.num_bytes, storage.nbytes())
        return result


def largest_storage(loss: Callable[[], Tensor]) -> int:
    """Bytes of the largest tensor in the forward and backward pass of a loss."""
    with LargestStorage() as record:
        loss().backward()
    return record.num_bytes

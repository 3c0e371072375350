"""Between host and device: few transfers, and no wait for a GPU where there need be none."""

from typing import Callable, List, Sequence

import numpy as np
import torch
from torch import Tensor


def to_host(tensors: Sequence[Tensor]) -> Callable[[], List[np.ndarray]]:
    """Start to move tensors of one device, the widest dtype first, to the CPU in one transfer.

    Returns:
        A function that waits for the transfer and gives the arrays; any thread may call it. From a
        GPU the copy goes to pinned memory, and queueing it waits for nothing.
    """
    if tensors[0].device.type == 'cpu':
        arrays = [tensor.numpy() for tensor in tensors]
        return lambda: arrays
    flat = torch.cat([tensor.flatten().view(torch.uint8) for tensor in tensors])
    on_gpu = flat.device.type == 'cuda'
    host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=on_gpu)
    host.copy_(flat, non_blocking=on_gpu)
    copied = torch.cuda.Event(blocking=True) if on_gpu else None
    if copied is not None:
        copied.record()

    def arrays_of() -> List[np.ndarray]:
        if copied is not None:
            copied.synchronize()
        parts = host.split([tensor.numel() * tensor.element_size() for tensor in tensors])
        return [
            part.view(tensor.dtype).view(tensor.shape).numpy()
            for part, tensor in zip(parts, tensors)
        ]

    return arrays_of


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Queue the move of an array to a device; from pinned memory, without a wait for a GPU."""
    tensor = torch.from_numpy(values)
    if device.type == 'cuda':
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def pad_rows(values: Sequence[Tensor]) -> Tensor:
    """Stack what B images have, each (M_b, ...), to (B, max(M_b, 1), ...), padded with any row.

    There is one row at least, so that an index always has something to point to. The number of
    operations does not depend on B.
    """
    counts = [value.shape[0] for value in values]
    index = np.zeros((len(counts), max(*counts, 1)), dtype=np.int64)
    for row, count, end in zip(index, counts, np.cumsum(counts)):
        row[:count] = np.arange(end - count, end)
    rows = torch.cat(list(values)) if any(counts) else values[0].new_zeros(1, *values[0].shape[1:])
    return rows[to_device(index, rows.device)]

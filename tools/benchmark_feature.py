"""Time and peak memory of the feature loss against masks that are built one per query.

    python tools/benchmark_feature.py [--queries 100 300 900] [--size 800 1216] [--batch 2]

Prints, per number of queries, both ways of computing DETRDistill's Eq. 9 (forward and backward) on
the same random maps of strides 8 to 64, measured in one run, and how far their values are apart.
"""

import argparse
import json
import time
import weakref
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmdet_detrdistill.functional import feature_kd


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of every tensor storage that is made inside and still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: Dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outside = {t.untyped_storage()._cdata for t in tree_flatten((args, kwargs))[0] if _is(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in filter(_is, tree_flatten(result)[0]):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self.known and key not in outside:
                self.known[key] = weakref.finalize(storage, self._free, key, size)
                self.live += size
                self.peak = max(self.peak, self.live)
        return result

    def _free(self, key: int, size: int) -> None:
        self.known.pop(key, None)
        self.live -= size


def _is(value: Any) -> bool:
    return isinstance(value, Tensor)


def materialised(
    student: List[Tensor], teacher: List[Tensor], queries: Tensor, quality: Tensor
) -> Tensor:
    """Eq. 9 as it is printed: one mask (H, W) per query, all kept at once."""
    total = student[0].new_zeros(())
    for own, other in zip(student, teacher):
        masks = torch.einsum('bnc,bchw->bnhw', queries[0], other)  # Eq. 7
        weights = (quality[0][..., None, None] * masks.square()).sum(1) / queries.shape[2]
        total = total + (weights * (other - own).square().mean(1)).mean()
    return total


def measure(function: Callable[[], Tensor], leaves: List[Tensor], repeats: int) -> Dict[str, float]:
    """Median seconds, peak MiB and value of forward and backward."""
    seconds = []
    for repeat in range(repeats + 1):
        for leaf in leaves:
            leaf.grad = None
        if repeat == 0:
            with PeakMemory() as memory:
                function().backward()
            continue
        start = time.perf_counter()
        value = function()
        value.backward()
        seconds.append(time.perf_counter() - start)
    return dict(
        seconds=sorted(seconds)[len(seconds) // 2], mib=memory.peak / 2**20, value=value.item()
    )


def main(argv: Optional[List[str]] = None) -> List[Dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--queries', type=int, nargs='+', default=[100, 300, 900])
    parser.add_argument('--size', type=int, nargs=2, default=[800, 1216], metavar=('H', 'W'))
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--channels', type=int, default=256)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--json', type=Path, help='write the rows here')
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    sizes = [(args.size[0] // stride, args.size[1] // stride) for stride in (8, 16, 32, 64)]
    shapes = [(args.batch, args.channels, h, w) for h, w in sizes]
    teacher = [torch.randn(shape) for shape in shapes]
    student = [torch.randn(shape, requires_grad=True) for shape in shapes]
    rows = []
    print('queries |  algebra s    MiB |  masks s    MiB | time x  memory x | relative difference')
    for count in args.queries:
        queries = torch.randn(1, args.batch, count, args.channels) / args.channels**0.5
        quality = torch.rand(1, args.batch, count)
        inputs = (student, teacher, queries, quality)
        ours = measure(partial(feature_kd, *inputs), student, args.repeats)
        slow = measure(partial(materialised, *inputs), student, args.repeats)
        apart = abs(ours['value'] - slow['value']) / abs(slow['value'])
        rows.append(dict(queries=count, algebra=ours, masks=slow, relative_difference=apart))
        print(
            f'{count:7d} | {ours["seconds"]:10.3f} {ours["mib"]:6.0f} | {slow["seconds"]:8.3f} '
            f'{slow["mib"]:6.0f} | {slow["seconds"] / ours["seconds"]:6.1f} '
            f'{slow["mib"] / ours["mib"]:9.1f} | {apart:.1e}'
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))
    return rows


if __name__ == '__main__':
    main()

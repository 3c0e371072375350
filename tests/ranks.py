"""Run a function in two processes of a gloo group on the CPU."""

import os
import socket
from pathlib import Path
from typing import Any, Callable, List

import torch


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def on_two_ranks(work: Callable[..., Any], folder: Path, *arguments: Any) -> List[Any]:
    """What `work(rank, *arguments)` returns in rank 0 and in rank 1.

    `work` joins the group itself, by `join_group(rank)`: before that it is a process on its own.
    """
    environment = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()), OMP_NUM_THREADS='1')
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        torch.multiprocessing.spawn(_call, (work, folder, arguments), nprocs=2)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return [torch.load(folder / f'rank{rank}.pth') for rank in (0, 1)]


def join_group(rank: int) -> None:
    torch.distributed.init_process_group('gloo', rank=rank, world_size=2)


def _call(rank: int, work: Callable[..., Any], folder: Path, arguments: Any) -> None:
    torch.set_num_threads(1)
    result = work(rank, *arguments)
    torch.distributed.destroy_process_group()
    torch.save(result, folder / f'rank{rank}.pth')

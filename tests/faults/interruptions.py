"""Kills and a full disk."""

import os
import random
import resource
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any, Dict, List

from tests.faults.cases import EPOCHS, PER_EPOCH, SAME, Place, case, reason, whole
from tests.trainings import differences, distillation, run_training, save_teacher

GOES_ON = '`--resume` ends as if uninterrupted'


def killed_and_resumed(place: Place, folder: Path, at: int) -> str:
    ended = run_training(place.config, folder, kill_at=at)
    assert ended.code == -signal.SIGKILL, ended.output
    whole(folder)
    return place.resumed(folder)


@case('SIGKILL at 20 random iterations', GOES_ON, f'20 of 20: {SAME}', slow=True)
def _(place: Place, folder: Path) -> List[str]:
    kills = random.Random(0).sample(range(1, EPOCHS * PER_EPOCH), 20)
    found = [killed_and_resumed(place, folder / str(at), at) for at in kills]
    unlike = [f'{at}: {text}' for at, text in zip(kills, found) if text != SAME]
    text = f'{found.count(SAME)} of 20: {SAME}'
    return [', '.join([text, *unlike]), 'a whole checkpoint after each kill']


@case('SIGKILL at 2 random iterations', GOES_ON, f'2 of 2: {SAME}')
def _(place: Place, folder: Path) -> List[str]:
    kills = random.Random(1).sample(range(1, EPOCHS * PER_EPOCH), 2)
    found = [killed_and_resumed(place, folder / str(at), at) for at in kills]
    return [f'{found.count(SAME)} of 2: {SAME}', 'a whole checkpoint after each kill']


@case('SIGKILL of a DINO (denoising noise) with two data workers', GOES_ON, SAME, slow=True)
def _(place: Place, folder: Path) -> List[str]:
    teacher = save_teacher(folder / 'teacher.pth', 'dino')
    config = distillation(place.data, teacher, 'dino', epochs=2)
    config.train_dataloader.update(num_workers=2, persistent_workers=True)
    assert run_training(config, folder / 'whole').code == 0
    assert run_training(config, folder / 'killed', kill_at=11).code == -signal.SIGKILL
    kept = whole(folder / 'killed')
    assert run_training(config, folder / 'killed', '--resume').code == 0
    paths = [folder / name / 'epoch_2.pth' for name in ('whole', 'killed')]
    unequal = differences(*paths)
    return [f'{len(unequal)} weights differ' if unequal else SAME, kept]


def die_while_writing() -> None:
    """The process dies half way through the second checkpoint (two flushes per file)."""
    flush, calls = os.fsync, []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 3:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        flush(handle)

    os.fsync = fsync


@case('SIGKILL half way through writing a checkpoint', GOES_ON, SAME)
def _(place: Place, folder: Path) -> List[str]:
    ended = run_training(place.config, folder / 'run', before=die_while_writing)
    assert ended.code == -signal.SIGKILL, ended.output
    assert (folder / 'run' / 'epoch_2.pth.unfinished').exists()
    return [place.resumed(folder / 'run'), 'epoch_1.pth whole']


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@case(
    'disk full while saving',
    'error that names the file; `--resume` when there is room',
    rf'OSError: .*(No space left|File too large).*epoch_2\.pth .*could not be written.*; {SAME}',
)
def _(place: Place, folder: Path) -> List[str]:
    size = place.final.stat().st_size
    disk = folder / 'disk'
    disk.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={int(1.7 * size) + 200_000}', 'tmpfs', str(disk)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        limits: Dict[str, Any] = {}
        if not mounted:  # not root
            assert run_training(place.config, disk / 'run', kill_at=PER_EPOCH + 1).code < 0
            limits = dict(before=partial(limit_files, size // 2))
        ended = run_training(place.config, disk / 'run', *(['--resume'] * (not mounted)), **limits)
        kept = whole(disk / 'run')
        assert (ended.code, kept) == (1, 'epoch_1.pth whole'), ended.output
        if mounted:
            grow = ['mount', '-o', f'remount,size={10 * size}', str(disk)]
            subprocess.run(grow, check=True)
        return [f'{reason(ended)}; {place.resumed(disk / "run")}', kept]
    finally:
        if mounted:
            subprocess.run(['umount', '-l', str(disk)], check=True)

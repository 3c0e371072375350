"""A fault, what is expected of it, and the training that it is compared with."""

import os
import re
import shutil
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional

from mmengine.config import Config

from mmdet_detrdistill.checkpoints.read import CheckpointError, load_checkpoint_file
from tests.trainings import (
    Ended,
    differences,
    distillation,
    draw_images,
    run_training,
    save_teacher,
)

EPOCHS, PER_EPOCH = 3, 8
SAME = 'resumed; the same weights, bit for bit'


class Place:
    """A folder with data, a teacher and one uninterrupted training to compare with.

    Each fault gets a folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.data = draw_images(folder / 'data', train_size=2 * PER_EPOCH)
        self.teacher = save_teacher(folder / 'teacher.pth')
        self.config = distillation(self.data, self.teacher, epochs=EPOCHS)
        ended = run_training(self.config, folder / 'whole')
        assert ended.code == 0, ended.output
        self.final = folder / 'whole' / f'epoch_{EPOCHS}.pth'

    def folder(self, name: str) -> Path:
        path = self.root / re.sub(r'\W+', '_', name)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def resumed(self, work_dir: Path, config: Optional[Config] = None) -> str:
        """Go on, and compare with the uninterrupted training."""
        ended = run_training(config or self.config, work_dir, '--resume')
        if ended.code != 0:
            return f'resume failed: {reason(ended)}'
        unequal = differences(self.final, work_dir / self.final.name)
        leftover = [path.name for path in work_dir.glob('*.unfinished')]
        return f'{len(unequal)} weights differ {leftover}' if unequal or leftover else SAME


class Case(NamedTuple):
    """A fault.

    Attributes:
        outcome: what is expected, in words.
        expected: the same, as a regular expression for the whole of what `make` observes.
        make: from a place and a folder of its own: what was observed, and what was kept.
        slow: left out of the quick form.
    """

    name: str
    outcome: str
    expected: str
    make: Callable[[Place, Path], List[str]]
    slow: bool = False

    def run(self, place: Place) -> 'Result':
        try:
            observed, kept = self.make(place, place.folder(self.name))
        except (AssertionError, CheckpointError) as error:
            observed, kept = f'{type(error).__name__}: {str(error)[-1500:]}', ''
        return Result(self, observed, kept, re.fullmatch(self.expected, observed) is not None)


class Result(NamedTuple):
    case: Case
    observed: str
    kept: str
    fits: bool


CASES: List[Case] = []


def case(name: str, outcome: str, expected: str, slow: bool = False) -> Callable[[Any], Any]:
    """Add the decorated function to `CASES`."""

    def add(make: Any) -> Any:
        CASES.append(Case(name, outcome, expected, make, slow))
        return make

    return add


def reason(ended: Ended) -> str:
    """The error in which a process ended, on one line; 'trained' when it did not."""
    if ended.code == 0:
        return 'trained'
    lines = ended.output.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r'[\w.]+(Error|Exit)\b', line)]
    text = ' '.join(' '.join(lines[starts[-1] if starts else -1 :]).split())
    text = text.replace(f'{os.getcwd()}/', '')
    return re.sub(r'/\S*/', '', re.sub(r'^[\w.]*\.(?=\w+Error)', '', text))


def whole(folder: Path) -> str:
    """The checkpoints in a folder that can be read."""
    names = []
    for path in sorted(folder.glob('epoch_*.pth')):
        load_checkpoint_file(str(path))
        names.append(path.name)
    return f'{", ".join(names)} whole' if names else 'nothing had been saved yet'

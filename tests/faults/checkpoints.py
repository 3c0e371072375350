"""Wrong files: to resume, to load, and as a teacher's checkpoint."""

import signal
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch

from mmdet_detrdistill.checkpoints.read import load_checkpoint_file
from tests.faults.cases import PER_EPOCH, SAME, Place, case, reason, whole
from tests.pickle_bomb import Bomb
from tests.trainings import distillation, run_tool, run_training, save_teacher

REFUSED = 'error that names the file and the previous one'


def refused(place: Place, folder: Path, content: bytes, *options: str) -> List[str]:
    """After an epoch: try `content` as the newest checkpoint; then remove it and go on."""
    ended = run_training(place.config, folder / 'run', kill_at=PER_EPOCH + 1)
    assert ended.code == -signal.SIGKILL, ended.output
    newest = folder / 'run' / 'epoch_2.pth'
    newest.write_bytes(content)
    (folder / 'run' / 'last_checkpoint').write_text(str(newest))
    ended = run_training(place.config, folder / 'run', '--resume', *options)
    newest.unlink()
    (folder / 'run' / 'last_checkpoint').unlink()
    kept = whole(folder / 'run')
    return [f'{reason(ended)}; without it {place.resumed(folder / "run")}', kept]


@case(
    'resume from a truncated checkpoint',
    REFUSED,
    r'CheckpointError: .*epoch_2\.pth \(\d+ bytes\) is truncated.*--resume epoch_1\.pth is the '
    rf'newest.*; without it {SAME}',
    slow=True,
)
def _(place: Place, folder: Path) -> List[str]:
    return refused(place, folder, place.final.read_bytes()[:50_000])


@case(
    "resume from another model's checkpoint",
    REFUSED,
    r'CheckpointError: .*epoch_2\.pth .*no optimizer, message_hub.*--resume epoch_1\.pth.*'
    rf'; without it {SAME}',
    slow=True,
)
def _(place: Place, folder: Path) -> List[str]:
    return refused(place, folder, place.teacher.read_bytes())


def bomb(folder: Path) -> Path:
    path = folder / 'bomb.pth'
    content = dict(state_dict=dict(a=torch.ones(1)), meta=Bomb(folder / 'executed'))
    torch.save(content, path)
    return path


@case(
    'pickle bomb as `load_from`, as `--resume`, for tools/test.py and tools/export_student.py',
    'refused, nothing executed',
    r'4 times CheckpointError: checkpoint bomb\.pth was refused and nothing in it was executed.*',
)
def _(place: Place, folder: Path) -> List[str]:
    path = str(bomb(folder))
    options = (['--cfg-options', f'load_from={path}'], ['--resume', path])
    ends = [run_training(place.config, folder / 'run', *more) for more in options]
    for tool in ('test', 'export_student'):
        command = [str(place.root / 'whole.py'), path]
        ends.append(run_tool(tool, command, folder / f'{tool}.log'))
    assert not (folder / 'executed').exists(), 'executed'
    found = {reason(ended).split(' So ')[0] for ended in ends}
    return ['; '.join(f'{len(ends)} times {text}' for text in found), 'nothing was executed']


def teacher_case(name: str, expected: str, write: Callable[[Dict[str, Any], Path], Any]) -> None:
    """A fault of the teacher's checkpoint: `write` makes it of the sound one's content."""

    @case(f'teacher checkpoint: {name}', 'error that names file and reason', expected)
    def _(place: Place, folder: Path) -> List[str]:
        path = folder / 'wrong.pth'
        write(load_checkpoint_file(str(place.teacher)), path)
        config = distillation(place.data, path, epochs=1)
        ended = run_training(config, folder / 'run')
        assert not (folder / 'executed').exists(), 'executed'
        assert not list((folder / 'run').glob('*.pth'))
        return [reason(ended), 'stopped before the first iteration']


def save(content: Dict[str, Any], path: Path, **changes: Any) -> None:
    torch.save({**content, **changes}, path)


def cut(content: Dict[str, Any], path: Path) -> None:
    torch.save(content, path)
    path.write_bytes(path.read_bytes()[:30_000])


def state_without(content: Dict[str, Any], path: Path) -> None:
    state = content['state_dict']
    save(content, path, state_dict={k: v for k, v in state.items() if 'neck' not in k})


def state_with_nan(content: Dict[str, Any], path: Path) -> None:
    content['state_dict']['level_embed'][0, 0] = float('nan')
    torch.save(content, path)


def of_dino(content: Dict[str, Any], path: Path) -> None:
    save_teacher(path, 'dino')


def other_classes(classes: List[str]) -> Callable[[Dict[str, Any], Path], None]:
    return lambda content, path: save(content, path, meta=dict(dataset_meta=dict(classes=classes)))


START = r'(CheckpointError|ValueError): .*'
teacher_case('missing', rf'{START}wrong\.pth does not exist.*', lambda content, path: None)
teacher_case('empty', rf'{START}wrong\.pth \(0 bytes\).*', lambda content, path: path.touch())
teacher_case('truncated', rf'{START}wrong\.pth \(30000 bytes\) is truncated.*', cut)
teacher_case(
    'a web page', rf'{START}is no checkpoint.*', lambda _, path: path.write_text('<html></html>')
)
teacher_case(
    'a pickle bomb',
    rf'{START}was refused and nothing in it was executed.*',
    lambda content, path: bomb(path.parent).rename(path),
)
teacher_case('another architecture', rf'{START}does not fit the teacher.*missing.*', of_dino)
teacher_case('a part of the weights', rf'{START}missing \(\d+\): neck.*', state_without)
teacher_case('NaN in a weight', rf'{START}NaN or Inf in 1 weights: level_embed.*', state_with_nan)
teacher_case(
    'other classes', rf"{START}class 2 is 'cat'.*", other_classes(['circle', 'hexagon', 'cat'])
)
teacher_case(
    'classes in another order',
    rf"{START}class 1 is 'ring' for the teacher.*",
    other_classes(['circle', 'ring', 'hexagon']),
)

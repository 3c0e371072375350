"""From a student, a teacher and its checkpoint to a distillation config that is kept, and a run."""

import os
import os.path as osp
from argparse import Namespace
from typing import Any, Dict, Iterable, List, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.runner import Runner

from .config_check import Rows, check, quiet
from .export import PACKAGE
from .launch import read_config
from .resume import check_start, make_resumable

SIDES = {'model.architecture.': 'student', 'model.teacher.': 'teacher'}
DATA_KEYS = dict(
    train_ann='annotations/instances_train.json',
    train_img='train/',
    val_ann='annotations/instances_val.json',
    val_img='val/',
    classes=None,
)
LOSSES = dict(
    loss_logits_kd=dict(type='LogitsKDLoss', loss_weight=1.0),
    loss_feature_kd=dict(type='FeatureKDLoss', loss_weight=1.0),
    loss_assign_kd=dict(type='AssignKDLoss', loss_weight=1.0),
)
BASE_MODEL = '_base_.model'


def distill(
    student: str,
    teacher: str,
    teacher_ckpt: str,
    *,
    data_root: Optional[str] = None,
    options: Optional[Dict[str, Any]] = None,
    out: Optional[str] = None,
    work_dir: Optional[str] = None,
) -> Runner:
    """Write the distillation config, check it on the first batch, train.

    The call behind `tools/distill.py`; see `write_config` for the arguments.

    Args:
        work_dir: folder for logs and checkpoints; None: work_dirs/NAME of the config.

    Returns:
        The runner as it is after training.

    Raises:
        What `write_config` and `config_check.check` raise: nothing is trained then.
    """
    path = write_config(
        student, teacher, teacher_ckpt, data_root=data_root, options=options, out=out
    )
    for _ in check_written(path):
        pass
    return train(path, work_dir)


def write_config(
    student: str,
    teacher: str,
    teacher_ckpt: str,
    *,
    data_root: Optional[str] = None,
    options: Optional[Dict[str, Any]] = None,
    out: Optional[str] = None,
) -> str:
    """Write the config that distils `teacher` into `student`: the student's own and a wrapper.

    Args:
        student: `mmdet::folder/config.py` or a file.
        teacher: likewise.
        teacher_ckpt: the teacher's checkpoint.
        data_root: folder of a data set in COCO format, see `coco_format`; None: the data of the
            student's config.
        options: overrides by dotted name, part of what is written. `model.architecture.` and
            `model.teacher.` stand before a setting of the student's and of the teacher's model.
        out: file to write; None: detrdistill_STUDENT-from-TEACHER.py in the working directory.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: no such config.
        ValueError: the student's config is no plain detector, or an option belongs nowhere.
        FileExistsError: the file is there and says something else.
    """
    base = read_base(student, 'student')
    read_base(teacher, 'teacher')
    if out is None:
        names = (osp.splitext(osp.basename(path))[0] for path in (student, teacher))
        out = 'detrdistill_{}-from-{}.py'.format(*names)
    text = compose(student, base, teacher, teacher_ckpt, data_root, dict(options or {}), out)
    if osp.exists(out):
        with open(out, encoding='utf-8') as file:
            if file.read() == text:
                return out
        raise FileExistsError(
            f'{out} exists and says something else: train it with tools/train.py, name another '
            'file (--out), or remove it'
        )
    os.makedirs(osp.dirname(osp.abspath(out)), exist_ok=True)
    with open(out, 'w', encoding='utf-8') as file:
        file.write(text)
    return out


def read_base(path: str, role: str) -> Config:
    """The config that a side is named by.

    Raises:
        FileNotFoundError, ValueError: see `write_config`.
    """
    if '::' not in path and not osp.isfile(path):
        raise FileNotFoundError(
            f'{role} config {path} does not exist (working directory: {os.getcwd()}); one of '
            'MMDetection is named as mmdet::folder/file.py'
        )
    config = get_config(path) if '::' in path else Config.fromfile(path)
    if 'bbox_head' not in config.get('model', {}):
        raise ValueError(
            f'{role} config {path} is not that of a detector: its model has no bbox_head'
        )
    return config


def compose(
    student: str,
    base: Config,
    teacher: str,
    teacher_ckpt: str,
    data_root: Optional[str],
    options: Dict[str, Any],
    out: str,
) -> str:
    """The text of the config; see `write_config`."""
    sides: Dict[str, Dict[str, Any]] = {'student': {}, 'teacher': {}}
    model: Dict[str, Any] = {}
    settings: Dict[str, Any] = {}
    if data_root is not None:
        settings = dict(coco_format=True, data_root=data_root)
        settings.update({key: options.pop(key, value) for key, value in DATA_KEYS.items()})
    elif set(options) & set(DATA_KEYS) - set(base):
        given = ', '.join(sorted(set(options) & set(DATA_KEYS)))
        raise ValueError(f'{given}: the places of COCO-format data need data_root beside them')
    own = {}
    for name, value in options.items():
        prefix = next((prefix for prefix in SIDES if name.startswith(prefix)), None)
        if prefix is not None:
            sides[SIDES[prefix]][name[len(prefix) :]] = value
        elif name.split('.')[:2] in (['model', 'distiller'], ['model', 'class_map']):
            put(model, name.split('.')[1:], value)
        elif name.split('.')[0] == 'model':
            raise ValueError(
                f'{name}: call it model.architecture.{name[6:]} for the student, '
                f'model.teacher.{name[6:]} for the teacher'
            )
        else:
            own[name] = value
    for keys, value in merged(base, own):
        put(settings, keys, value)

    distiller = dict(type='DETRDistiller', distill_losses={k: dict(v) for k, v in LOSSES.items()})
    for keys, value in leaves(model.pop('distiller', {})):
        put(distiller, keys, value)
    wrapper = dict(
        _delete_=True,
        type='DETRDistill',
        architecture=named(student, sides['student']) if sides['student'] else BASE_MODEL,
        teacher=named(teacher, sides['teacher']) if sides['teacher'] else teacher,
        teacher_ckpt=teacher_ckpt,
        **model,
        distiller=distiller,
    )
    imports = base.get('custom_imports') or {}
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    entries = dict(
        custom_imports=dict(imports=[*names, *(() if PACKAGE in names else (PACKAGE,))]),
        custom_hooks=[*(base.get('custom_hooks') or []), dict(type='TeacherCheckHook')],
        **settings,
        model=wrapper,
    )
    folder = osp.dirname(osp.abspath(out))
    where = student if '::' in student else osp.relpath(student, folder).replace(os.sep, '/')
    body = '\n'.join(f'{key} = {as_code(value)}' for key, value in entries.items())
    return (
        f'# Student {student}, teacher {teacher}.\n'
        '# Written by tools/distill.py, yours to change.\n'
        f'#   python tools/check.py {out}\n'
        f'#   python tools/train.py {out}\n'
        f'_base_ = {where!r}\n\n' + body.replace(repr(BASE_MODEL), BASE_MODEL) + '\n'
    )


def named(path: str, options: Dict[str, Any]) -> Dict[str, Any]:
    return dict(cfg_path=path, options=options)


def put(target: Dict[str, Any], keys: List[str], value: Any) -> None:
    """Set a nested entry, making the dicts on the way."""
    for key in keys[:-1]:
        target = target.setdefault(key, {})
    target[keys[-1]] = value


def leaves(tree: Dict[str, Any], keys: Tuple[str, ...] = ()) -> Iterable[Tuple[List[str], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*keys, key))
        else:
            yield [*keys, key], value


def merged(base: Config, options: Dict[str, Any]) -> Iterable[Tuple[List[str], Any]]:
    """Entries to write for dotted options; one that reaches into a list needs the whole list."""
    changed = Config(base.to_dict())
    changed.merge_from_dict(options)
    for name in options:
        keys = name.split('.')
        whole = next((i for i, key in enumerate(keys) if key.isdigit()), len(keys))
        value = changed
        for key in keys[:whole]:
            value = value[key]
        yield keys[:whole], value


def as_code(value: Any, indent: int = 0) -> str:
    """Python for nested dicts and lists, broken into lines where one would be too long."""
    if isinstance(value, dict):
        plain = all(str(key).isidentifier() for key in value)
        opened, closed = ('dict(', ')') if plain else ('{', '}')
        items = [
            (f'{key}=' if plain else f'{key!r}: ') + as_code(entry, indent + 4)
            for key, entry in value.items()
        ]
    elif isinstance(value, (list, tuple)) and value:
        single = ',' if len(value) == 1 else ''
        opened, closed = ('[', ']') if isinstance(value, list) else ('(', f'{single})')
        items = [as_code(entry, indent + 4) for entry in value]
    else:
        return repr(value)
    line = opened + ', '.join(items) + closed
    if len(line) + indent <= 88 and '\n' not in line:
        return line
    pad = ' ' * (indent + 4)
    return opened + '\n' + ''.join(f'{pad}{item},\n' for item in items) + ' ' * indent + closed[-1]


def read_written(path: str, work_dir: Optional[str] = None, needs_data: bool = True) -> Config:
    """A config as the tools read it."""
    arguments = dict(config=path, cfg_options=None, work_dir=work_dir)
    return read_config(Namespace(launcher='none', local_rank=0, **arguments), needs_data)


def check_written(path: str, random_teacher: bool = False, train: bool = True) -> Iterable[Rows]:
    """`config_check.check` of a written config, on its own data.

    Args:
        random_teacher: the checkpoint is not there yet.
        train: the training data have to be there.

    Raises:
        FileNotFoundError: they are not, or `check` says so.
    """
    with quiet():
        config = read_written(path, needs_data=train)
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        for rows in check(config, random_teacher=random_teacher, device=device):
            source = dict(rows).get('batch', '')
            if train and 'missing' in source:
                raise FileNotFoundError(
                    f'no training data: {source.split("since ")[1]}. Name your own in COCO format '
                    '(--data-root), or the place of those that the config names'
                )
            yield rows


def train(path: str, work_dir: Optional[str] = None) -> Runner:
    """Train a written config as `tools/train.py` does."""
    config = read_written(path, work_dir)
    make_resumable(config)
    runner = Runner.from_cfg(config)
    check_start(config, runner.model)
    runner.train()
    return runner


def batch_note(config: Config) -> str:
    """A sentence when the schedule is meant for another batch size, else ''."""
    scale = config.get('auto_scale_lr') or {}
    meant, batch = scale.get('base_batch_size'), config.train_dataloader.get('batch_size')
    if scale.get('enable') or None in (meant, batch) or meant == batch:
        return ''
    return (
        f'The learning rate of this schedule is meant for batches of {meant}, one GPU here makes '
        f'{batch}: --cfg-options auto_scale_lr.enable=True scales it.'
    )

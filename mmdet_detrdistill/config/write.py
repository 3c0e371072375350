"""The text of a distillation config: the student's config, a wrapper, overrides."""

import os
import os.path as osp
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from mmengine.config import Config

from ..registry import SCOPE as PACKAGE
from .load import load_config

SIDES = {'model.architecture.': 'student', 'model.teacher.': 'teacher'}
DATA_KEYS = dict(
    train_ann='annotations/instances_train.json',
    train_img='train/',
    val_ann='annotations/instances_val.json',
    val_img='val/',
    classes=None,
)
LOSSES = dict(
    logits='LogitsKDLoss', feature='FeatureKDLoss', assign='AssignKDLoss', aligned='AlignedKDLoss'
)
PAPER = ('logits', 'feature', 'assign')
RECOMMENDED = ('aligned',)
BASE_MODEL = '_base_.model'
WRAPPER_KEYS = ('distiller', 'class_map', 'teacher_pass', 'unlabelled', 'data_preprocessor')


def compose(
    student: str,
    base: Config,
    teacher: str,
    teacher_ckpt: str,
    data_root: Optional[str],
    options: Dict[str, Any],
    out: str,
    losses: Sequence[str],
) -> str:
    """Compose the text of the config; see `api.write_config`."""
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
        elif name.split('.')[:2] in [['model', key] for key in WRAPPER_KEYS]:
            put(model, name.split('.')[1:], value)
        elif name.split('.')[0] == 'model':
            raise ValueError(
                f'{name}: call it model.architecture.{name[6:]} for the student, '
                f'model.teacher.{name[6:]} for the teacher'
            )
        else:
            own[name] = value
    changed = Config(base.to_dict())
    changed.merge_from_dict(own)
    inherits = '::' in student or not Config._is_lazy_import(student)
    if inherits:
        for keys, value in merged(changed, own):
            put(settings, keys, value)
    else:
        settings = {**changed.to_dict(), **settings}

    distiller = dict(type='DETRDistiller', distill_losses=loss_configs(losses))
    for keys, value in leaves(model.pop('distiller', {})):
        put(distiller, keys, value)
    paths = dict(student=student, teacher=teacher)
    named = {side: dict(cfg_path=paths[side], options=sides[side]) for side in sides}
    whole_student = BASE_MODEL if inherits else settings['model']
    wrapper = dict(
        **(dict(_delete_=True) if inherits else {}),
        type='DETRDistill',
        architecture=named['student'] if sides['student'] else whole_student,
        teacher=named['teacher'] if sides['teacher'] else teacher,
        teacher_ckpt=teacher_ckpt,
        **model,
        distiller=distiller,
    )
    imports = changed.get('custom_imports') or {}
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    entries = dict(
        custom_imports=dict(imports=[*names, *(() if PACKAGE in names else (PACKAGE,))]),
        custom_hooks=[*(changed.get('custom_hooks') or []), dict(type='TeacherCheckHook')],
    )
    entries.update({key: value for key, value in settings.items() if key not in entries})
    entries['model'] = wrapper
    folder = osp.dirname(osp.abspath(out))
    where = student if '::' in student else osp.relpath(student, folder).replace(os.sep, '/')
    body = '\n'.join(f'{key} = {as_code(value)}' for key, value in entries.items())
    return (
        f'# Student {student}, teacher {teacher}.\n'
        '# Written by tools/distill.py, yours to change.\n'
        f'#   python tools/check.py {out}\n'
        f'#   python tools/train.py {out}\n'
        + (f'_base_ = {where!r}\n\n' if inherits else '\n')
        + body.replace(repr(BASE_MODEL), BASE_MODEL)
        + '\n'
    )


def loss_configs(names: Sequence[str]) -> Dict[str, Dict[str, Any]]:
    """Return the configs of losses by their short names; 'paper' stands for those of DETRDistill.

    Raises:
        ValueError: no name, or an unknown one.
    """
    chosen = [own for name in names for own in (PAPER if name == 'paper' else (name,))]
    unknown = [name for name in chosen if name not in LOSSES]
    if unknown or not chosen:
        raise ValueError(
            f"losses must be some of {', '.join(LOSSES)}, or 'paper' for {', '.join(PAPER)}; "
            f'got {list(names)}'
        )
    return {f'loss_{name}_kd': dict(type=LOSSES[name], loss_weight=1.0) for name in chosen}


def write_loadable(text: str, path: str) -> None:
    """Write a config where it is known to load; otherwise leave nothing.

    Raises:
        ValueError: it does not load, see `load_config`.
    """
    stem, ending = osp.splitext(path)
    unfinished = f'{stem}.unfinished{ending}'
    try:
        with open(unfinished, 'w', encoding='utf-8') as file:
            file.write(text)
        load_config(unfinished)
        os.replace(unfinished, path)
    finally:
        if osp.exists(unfinished):
            os.remove(unfinished)


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


def merged(changed: Config, options: Dict[str, Any]) -> Iterable[Tuple[List[str], Any]]:
    """Return entries to write for dotted options; one inside a list needs the whole list."""
    for name in options:
        keys = name.split('.')
        whole = next((i for i, key in enumerate(keys) if key.isdigit()), len(keys))
        value = changed
        for key in keys[:whole]:
            value = value[key]
        yield keys[:whole], value


def as_code(value: Any, indent: int = 0) -> str:
    """Write nested dicts and lists as Python, in several lines if one would be too long."""
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

"""Checkpoints: read without executing anything, and load strictly.

MMEngine's training checkpoints hold its log buffers and NumPy values, which `weights_only=True`
refuses until they are allowed by name. Nothing else is allowed, and the safety is never off.
"""

import codecs
import os
import os.path as osp
import pickle
import re
from collections import Counter, OrderedDict
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import torch
from mmengine.model import is_model_wrapper
from torch import nn

#: positions 0, 1, 2 ... of a language model: older releases of transformers stored them
COMPUTED_BUFFER = '.embeddings.position_ids'
SHOWN = 8  # keys that an error lists before it counts the rest
REFUSED = re.compile(r'GLOBAL (\S+)')  # how PyTorch, and we, name a type that is not allowed


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names the file and what to do."""


def _under_name(function: Callable[..., Any], path: str) -> Callable[..., Any]:
    """Return `function` under the path `module.name` that files give it."""

    def renamed(*args: Any) -> Any:
        return function(*args)

    renamed.__module__, renamed.__qualname__ = path.rsplit('.', 1)
    return renamed


def _statistic(owner: Any, name: str) -> Any:
    """Allow `getattr` for the statistics of a log buffer, and for nothing else."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'GLOBAL getattr(...,{name!r}) is not allowed')
    return getattr(HistoryBuffer, name)


@lru_cache(maxsize=None)
def checkpoint_types() -> List[Any]:
    """Return the types in MMEngine's checkpoints that PyTorch does not allow by default."""
    from mmengine.logging.history_buffer import HistoryBuffer

    kinds = ('?', 'i1', 'u1', 'i2', 'i4', 'i8', 'f2', 'f4', 'f8')
    dtypes = {type(np.dtype(kind)) for kind in kinds}
    functions: Dict[str, Any] = {
        '_reconstruct': np.empty(0).__reduce__()[0],
        'scalar': np.float64(0).__reduce__()[0],
    }
    renamed = [
        _under_name(function, f'{module}.{name}')
        for name, function in functions.items()
        for module in ('numpy.core.multiarray', 'numpy._core.multiarray')  # NumPy 1 and 2
    ]
    renamed += [_under_name(_statistic, f'{name}.getattr') for name in ('builtins', '__builtin__')]
    return [HistoryBuffer, Counter, np.ndarray, np.dtype, *dtypes, *renamed]


def allow_checkpoint_types() -> None:
    """Let `weights_only=True` read MMEngine's checkpoints; nothing on PyTorch before 2.4.

    Those versions have no list of allowed types, and read everything by default.
    """
    add = getattr(torch.serialization, 'add_safe_globals', None)
    if add is not None:
        add(checkpoint_types())


def restricted_pickle() -> Any:
    """Return a `pickle_module`, for PyTorch before 2.4, of tensors and checkpoint types only."""
    known = {f'{item.__module__}.{item.__qualname__}': item for item in checkpoint_types()}
    known.update(
        {
            'collections.OrderedDict': OrderedDict,
            'torch.Size': torch.Size,
            '_codecs.encode': codecs.encode,  # how bytes are written
        }
    )
    for name in ('_rebuild_tensor', '_rebuild_tensor_v2', '_rebuild_parameter'):
        known[f'torch._utils.{name}'] = getattr(torch._utils, name)

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            path = f'{module}.{name}'
            if path in known:
                return known[path]
            if module == 'torch' and name.endswith('Storage'):
                return getattr(torch, name)
            raise pickle.UnpicklingError(f'GLOBAL {path} is not allowed')

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return SimpleNamespace(
        Unpickler=Unpickler, load=load, UnpicklingError=pickle.UnpicklingError, __name__='pickle'
    )


def _local_file(path_or_url: str) -> str:
    """Return the file to read; a URL is downloaded once, to the cache of torch.hub."""
    if not path_or_url.startswith(('http://', 'https://')):
        path = osp.expanduser(path_or_url)
        if not osp.isfile(path):
            raise CheckpointError(
                f'checkpoint {path_or_url} does not exist. Give an existing file or a URL'
            )
        return path
    folder = osp.join(torch.hub.get_dir(), 'checkpoints')
    path = osp.join(folder, osp.basename(path_or_url.split('?')[0]))
    if not osp.isfile(path):
        os.makedirs(folder, exist_ok=True)
        try:
            torch.hub.download_url_to_file(path_or_url, path)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f'{path_or_url} could not be downloaded ({error}). Obtain the file by other means '
                'and give its path'
            ) from error
    return path


def _read(path: str) -> Any:
    if hasattr(torch.serialization, 'add_safe_globals'):
        allow_checkpoint_types()
        return torch.load(path, map_location='cpu', weights_only=True)
    if torch.__version__ < '2':  # its torch.load takes pickle itself, whatever it is given
        return _read_restricted(path, torch.serialization)
    return torch.load(path, map_location='cpu', pickle_module=restricted_pickle())


def _read_restricted(path: str, reader: Any) -> Any:
    """Do what `torch.load` of PyTorch 1.13 does with a `pickle_module`, without overwriting it."""
    with open(path, 'rb') as file:
        if not reader._is_zipfile(file):
            return reader._legacy_load(file, 'cpu', restricted_pickle(), encoding='utf-8')
        with reader._open_zipfile_reader(file) as archive:
            return reader._load(archive, 'cpu', restricted_pickle(), encoding='utf-8')


def load_checkpoint_file(path_or_url: str) -> Dict[str, Any]:
    """Read a checkpoint as a dict with `state_dict`, on the CPU.

    It is read as with `weights_only=True` on every PyTorch, so a file can execute nothing. A bare
    state dict is wrapped.

    Raises:
        CheckpointError: no such file, not a (whole) checkpoint, forbidden content, no state dict.
    """
    path = _local_file(path_or_url)
    try:
        checkpoint = _read(path)
    except Exception as error:  # anything that a file which is no checkpoint raises in the reader
        refused = REFUSED.search(str(error))
        if refused is not None:
            raise CheckpointError(
                f'checkpoint {path} was refused and nothing in it was executed: besides weights '
                f'and plain values it holds {refused.group(1)}. Save it again without that, as '
                "{'state_dict': ..., 'meta': ...}"
            ) from error
        raise CheckpointError(
            f'checkpoint {path} ({osp.getsize(path)} bytes) is truncated or is no checkpoint. '
            'Delete it and download or save it again'
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'checkpoint {path} holds a {type(checkpoint).__name__}, not a dict')
    if isinstance(checkpoint.get('state_dict'), dict):
        return checkpoint
    if checkpoint and all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        return dict(state_dict=checkpoint)
    raise CheckpointError(
        f'checkpoint {path} has no `state_dict`, only {_some(list(checkpoint))}. Convert it to '
        "MMEngine's form: {'state_dict': ..., 'meta': {...}}"
    )


def unwrap_model(model: nn.Module) -> Any:
    """The model in a wrapper for several processes, or the model itself."""
    return model.module if is_model_wrapper(model) else model


def _some(keys: Sequence[Any]) -> str:
    shown = ', '.join(str(key) for key in keys[:SHOWN])
    return f'{shown}, and {len(keys) - SHOWN} more' if len(keys) > SHOWN else shown


def _hint(keys: Sequence[str]) -> str:
    """Say what to do when all keys have the prefix of a wrapper."""
    if any(key.startswith('architecture.') for key in keys):
        return (
            '\nThe keys `architecture.*` are the student of a distillation checkpoint. Take it out '
            'with tools/export_student.py'
        )
    for prefix in ('module.', 'student.'):
        if keys and all(key.startswith(prefix) for key in keys):
            return f'\nAll keys start with `{prefix}`: save the state dict without that prefix'
    return ''


def refuse_unfit_state(
    model: nn.Module, state_dict: Dict[str, torch.Tensor], source: str, what: str = 'model'
) -> None:
    """Compare names and shapes of weights with those of `model`.

    Args:
        source: where the weights come from, for the error.
        what: what the model is, for the error.

    Raises:
        CheckpointError: counts and first names of missing, unexpected and differently shaped keys.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state_dict]
    unexpected = [key for key in state_dict if key not in own]
    reshaped = [
        f'{key} {tuple(state_dict[key].shape)} instead of {tuple(own[key].shape)}'
        for key in own
        if key in state_dict and own[key].shape != state_dict[key].shape
    ]
    rows = [('missing', missing), ('unexpected', unexpected), ('other shape', reshaped)]
    if missing or unexpected or reshaped:
        listed = '\n'.join(f'  {name} ({len(keys)}): {_some(keys)}' for name, keys in rows if keys)
        raise CheckpointError(
            f'checkpoint {source} does not fit the {what}, {type(model).__name__}; nothing was '
            f'loaded:\n{listed}{_hint(unexpected)}\nGive the checkpoint of this architecture, or '
            'the config that this checkpoint was trained with'
        )


def load_state_strictly(
    model: nn.Module, state_dict: Dict[str, torch.Tensor], source: str, what: str = 'model'
) -> None:
    """Load weights that fit `model` exactly; otherwise leave it as it is.

    Raises:
        CheckpointError: as `refuse_unfit_state`.
    """
    own = model.state_dict()
    kept = {
        key: value
        for key, value in state_dict.items()
        if key in own or not key.endswith(COMPUTED_BUFFER)
    }
    refuse_unfit_state(model, kept, source, what)
    model.load_state_dict(kept, strict=True)


def load_strictly(model: nn.Module, checkpoint_path: str, what: str = 'teacher') -> Dict[str, Any]:
    """Load a checkpoint that fits `model` exactly, and return its `meta` ({} if it has none).

    Raises:
        CheckpointError: unreadable, another architecture, or NaN or Inf in a weight; nothing is
            loaded then.
    """
    checkpoint = load_checkpoint_file(checkpoint_path)
    values = checkpoint['state_dict'].items()
    broken = [key for key, value in values if not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(
            f'checkpoint {checkpoint_path} has NaN or Inf in {len(broken)} weights: '
            f'{_some(broken)}. Its training has failed: take an earlier checkpoint'
        )
    load_state_strictly(model, checkpoint['state_dict'], checkpoint_path, what)
    return checkpoint.get('meta') or {}

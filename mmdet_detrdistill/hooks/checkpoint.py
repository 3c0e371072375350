"""Checkpoints that survive an interrupted save."""

import os
import os.path as osp
from collections import deque
from pathlib import Path
from typing import Any, Deque, Dict, Optional, Union

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.hooks import CheckpointHook

from ..registry import register


@register_backend('atomic', force=True)
class AtomicLocalBackend(LocalBackend):
    """Write local files atomically: to a temporary file, flushed to disk, then renamed.

    A file holds the old content or the new at any moment, never a part of it.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write `obj`; an existing file stays if that fails.

        Raises:
            OSError: names the file and the reason, such as a full disk.
        """
        path = os.fspath(filepath)
        folder, unfinished = osp.dirname(path) or '.', f'{path}.unfinished'
        os.makedirs(folder, exist_ok=True)
        try:
            with open(unfinished, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except OSError as error:
            if osp.isfile(unfinished):
                os.remove(unfinished)
            raise OSError(
                error.errno,
                f'{error.strerror or error}: {path} ({len(obj)} bytes) could not be written. What '
                'was saved before is untouched: make room and go on with --resume',
            ) from error
        _flush_folder(folder)


def _flush_folder(folder: str) -> None:
    """Flush a rename to disk, if the system can."""
    if not hasattr(os, 'O_DIRECTORY'):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@register('HOOKS')
class SafeCheckpointHook(CheckpointHook):
    """Save as `CheckpointHook` does, but remove an old file only after the new one is whole.

    MMEngine writes in place, and with `max_keep_ckpts` or `save_best` it removes the old file
    first: a kill or a full disk between the two leaves nothing to resume from. Here a whole
    checkpoint is always on disk, which takes room for one more. Arguments are MMEngine's. Folders
    that are not on local disks are written by their backend.
    """

    # set by `CheckpointHook`, which is untyped
    backend_args: Optional[Dict[str, Any]]
    keep_ckpt_ids: Deque[int]
    max_keep_ckpts: int

    def before_train(self, runner: Any) -> None:
        own = (self.backend_args, self.file_client_args) != (None, None)
        if not own and type(get_file_backend(self.out_dir or runner.work_dir)) is LocalBackend:
            self.backend_args = dict(backend='atomic')
        super().before_train(runner)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: Dict[str, Any]) -> None:
        num_kept, self.max_keep_ckpts = self.max_keep_ckpts, -1  # saves, removes nothing
        try:
            if num_kept > 0:
                kept = [*(old for old in self.keep_ckpt_ids if old != step), step]
                runner.message_hub.update_info('keep_ckpt_ids', kept)
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            self.max_keep_ckpts = num_kept
        if num_kept > 0:
            for old in kept[:-num_kept]:
                name = self.filename_tmpl.format(old)
                self._remove(self.file_backend.join_path(self.out_dir, name))
            self.keep_ckpt_ids = deque(kept, num_kept)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _save_best_checkpoint(self, runner: Any, metrics: Dict[str, Any]) -> None:
        if not self.save_best:
            return
        before = self._best()
        self._set_best(dict.fromkeys(before))  # saves, removes nothing
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            after = self._best()
            self._set_best({name: after[name] or before[name] for name in before})
        for name, path in before.items():
            if path and after.get(name) and after[name] != path:
                self._remove(path)

    def _best(self) -> Dict[str, Optional[str]]:
        """Return the path of the best checkpoint by metric; MMEngine keeps a single one apart."""
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    def _set_best(self, paths: Dict[str, Optional[str]]) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict = dict(paths)

    def _remove(self, path: str) -> None:
        if not is_main_process():
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # as DeepSpeed saves
            self.file_backend.rmtree(path)

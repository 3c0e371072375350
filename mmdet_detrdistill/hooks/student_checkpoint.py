"""Export the plain student at the best and the last checkpoint."""

from typing import Any, Dict, Optional

from mmengine.dist import master_only
from mmengine.hooks import Hook

from ..checkpoints.export import export_student
from ..registry import register


@register('HOOKS')
class StudentCheckpointHook(Hook):
    """Write `student_best.pth`, `student_last.pth` and their config, `student.py`.

    They are taken from the files of `CheckpointHook`: the best when its `save_best` writes one
    (one file per metric, `student_best_METRIC.pth`, when there are several), the last at the end
    of training. An EMA is exported where the checkpoint holds it. See `export_student`.

    Args:
        out_dir: folder for the three; None: the work folder.
    """

    priority = 'LOWEST'  # after CheckpointHook

    def __init__(self, out_dir: Optional[str] = None) -> None:
        self.out_dir = out_dir
        self._exported: Dict[str, str] = {}

    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        for name, path in runner.message_hub.runtime_info.items():
            if name.startswith('best_ckpt') and self._exported.get(name) != path:
                self._export(runner, path, name.replace('_ckpt', '').replace('/', '_'))
                self._exported[name] = path

    def after_train(self, runner: Any) -> None:
        if 'last_ckpt' in runner.message_hub.runtime_info:
            self._export(runner, runner.message_hub.get_info('last_ckpt'), 'last')

    @master_only
    def _export(self, runner: Any, path: str, name: str) -> None:
        folder = self.out_dir or runner.work_dir
        written = export_student(runner.cfg, path, folder, f'student_{name}')
        runner.logger.info(f'Student alone: {" and ".join(written)}')

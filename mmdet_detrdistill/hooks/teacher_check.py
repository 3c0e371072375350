"""Compare teacher and data before the first iteration."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from ..registration import register
from ..teacher import check_class_names


@register('HOOKS')
class TeacherCheckHook(Hook):
    """Stops a run whose teacher names other classes, or in another order, than the training data.

    Raises (before training):
        ValueError: names the class, see `check_class_names`.
    """

    def before_train(self, runner: Any) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        dataset_meta = getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}
        meta = getattr(model, 'teacher_meta', {})
        check_class_names(meta, dataset_meta)
        named = bool((meta.get('dataset_meta') or {}).get('classes'))
        runner.logger.info(
            'Teacher check: class names agree with the dataset.'
            if named
            else 'Teacher check: the checkpoint names no classes; their number agrees.'
        )

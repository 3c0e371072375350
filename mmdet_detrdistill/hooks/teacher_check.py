"""Compare teacher and data before the first iteration."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from ..class_map import class_names, settle_classes
from ..registration import register


@register('HOOKS')
class TeacherCheckHook(Hook):
    """Stops a run whose teacher names other classes, or in another order, than the training data.

    With `class_map='auto'` or a renaming it pairs the classes by name instead, and logs the pairs.

    Raises (before training):
        ValueError: names the class; or names are needed and missing. See `settle_classes`.
    """

    def before_train(self, runner: Any) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}
        runner.logger.info(f'Teacher check: {settle_classes(model, class_names(metainfo))}.')

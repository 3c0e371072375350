"""Compare teacher and data before the first iteration."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from ..class_map import class_names, map_by_name
from ..registration import register
from ..teacher import check_class_names


@register('HOOKS')
class TeacherCheckHook(Hook):
    """Stops a run whose teacher names other classes, or in another order, than the training data.

    With `class_map='auto'` or a renaming it pairs the classes by name instead, and logs the pairs.

    Raises (before training):
        ValueError: names the class, see `check_class_names`; or names are needed and missing.
    """

    def before_train(self, runner: Any) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        wanted = model.class_map_config
        if wanted is not None and model.class_map is not None:
            return  # given as labels
        data = class_names(getattr(runner.train_dataloader.dataset, 'metainfo', None) or {})
        teacher = class_names(model.teacher_meta.get('dataset_meta') or {})
        if wanted is None:
            if teacher is None or data is None:
                runner.logger.info('Teacher check: no class names to compare; their number agrees.')
                return
            check_class_names(teacher, data)
            runner.logger.info('Teacher check: class names agree with the dataset.')
            return
        if teacher is None or data is None:
            side = 'the teacher checkpoint' if teacher is None else 'the training dataset'
            raise ValueError(
                f'class_map {wanted!r}: {side} names no classes; give a list of labels'
            )
        labels = map_by_name(data, teacher, wanted if isinstance(wanted, dict) else {})
        model.set_class_map(labels)
        pairs = ', '.join(
            f'{name} <- {teacher[label] if label >= 0 else "nothing"}'
            for name, label in zip(data, labels)
        )
        runner.logger.info(f'Teacher check: classes by name: {pairs}')

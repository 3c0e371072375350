"""MMRazor's validation of student and teacher, for a teacher with classes of its own."""

from types import SimpleNamespace
from typing import Any

from mmrazor.engine import SingleTeacherDistillValLoop as ValLoop

from ..checkpoints.read import unwrap_model
from ..registry import register
from .algorithm import DETRDistill


@register('LOOPS')
class SingleTeacherDistillValLoop(ValLoop):
    """Score the teacher of a `DETRDistill` in the student's labels, on images as it was trained on.

    Takes the place of MMRazor's loop of this name, and is that loop for other algorithms.

    Args: see MMRazor's.
    """

    def __init__(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        model = unwrap_model(runner.model)
        preprocessor = model.teacher.data_preprocessor
        super().__init__(runner, *args, **kwargs)
        if isinstance(model, DETRDistill):
            model.teacher.data_preprocessor = preprocessor  # MMRazor gives it the student's
            self.teacher = SimpleNamespace(val_step=model.predict_teacher)

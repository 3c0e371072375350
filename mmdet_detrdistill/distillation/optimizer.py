"""Parameter groups of a distillation: the student's, by its own names, and the distiller's."""

from typing import Any, Dict, Optional

from mmdet.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from ..checkpoints.read import unwrap_model
from ..registry import class_of, register
from .algorithm import DETRDistill


@register('OPTIM_WRAPPER_CONSTRUCTORS')
class StudentOptimWrapperConstructor:
    """Call another constructor with the student, then add what the distiller learns as a group.

    `tools/train.py` puts it before every constructor but MMEngine's own; a config that is run by a
    bare `Runner` names it itself. A constructor that goes by parameter names
    (`backbone.stages.0...`) or asks for `model.backbone`, such as MMDetection's layer decay, works
    as for the student alone.

    Args:
        optim_wrapper_cfg: config of the optimizer wrapper, with `student_constructor`, the type of
            the constructor to call (default: MMEngine's).
        paramwise_cfg: that constructor's. The distiller's group has the optimizer's own settings.
    """

    def __init__(
        self, optim_wrapper_cfg: Dict[str, Any], paramwise_cfg: Optional[Dict[str, Any]] = None
    ) -> None:
        config = dict(optim_wrapper_cfg)
        self.constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
            dict(
                type=config.pop('student_constructor', DefaultOptimWrapperConstructor),
                optim_wrapper_cfg=config,
                paramwise_cfg=paramwise_cfg,
            )
        )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper of a `DETRDistill`, or of one that DDP wraps."""
        distillation = unwrap_model(model)
        optim_wrapper: OptimWrapper = self.constructor(distillation.student)
        learned = {n: p for n, p in distillation.distiller.named_parameters() if p.requires_grad}
        if learned:
            group: Dict[str, Any] = dict(params=list(learned.values()))
            if (
                'param_names' in optim_wrapper.optimizer.param_groups[0]
            ):  # PyTorch wants them in all or none
                group['param_names'] = [f'distiller.{name}' for name in learned]
            optim_wrapper.optimizer.add_param_group(group)
        return optim_wrapper


def use_student_names(config: Config) -> None:
    """Let the optimizer constructor of a distillation see the student's own parameter names.

    MMEngine's default constructor stays: it finds its `custom_keys` anywhere in a name.
    """
    if class_of('MODELS', config.model) is DETRDistill and needs_student_names(config):
        optim_wrapper = config.optim_wrapper
        optim_wrapper.update(
            constructor='mmdet.StudentOptimWrapperConstructor',
            student_constructor=optim_wrapper.constructor,
        )


def needs_student_names(config: Config) -> bool:
    """Tell whether the optimizer constructor of a config would see `architecture.` before names."""
    constructor = (config.get('optim_wrapper') or {}).get('constructor')
    return constructor is not None and class_of('OPTIM_WRAPPER_CONSTRUCTORS', constructor) not in (
        DefaultOptimWrapperConstructor,
        StudentOptimWrapperConstructor,
    )

"""Build a distillation as it starts, and describe both sides of it."""

from copy import deepcopy
from importlib.util import find_spec
from typing import Any, List

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseModule, PretrainedInit
from mmengine.optim import build_optim_wrapper
from torch import nn

from ..checkpoints.resume import check_start
from ..config.load import detector_config
from ..detectors import build_detector
from ..distillation.algorithm import DETRDistill
from ..distillation.optimizer import use_student_names
from ..functional.stages import stage_groups
from ..registry import class_of, scope_of
from .batch import Rows, teacher_class_names


def build(config: Config, random_teacher: bool) -> DETRDistill:
    """Build the algorithm of a config, with a random student (and teacher, if asked)."""
    kind = class_of('MODELS', config.model)
    if not (isinstance(kind, type) and issubclass(kind, DETRDistill)):
        raise ValueError("not a distillation config: model.type is not 'DETRDistill'")
    model = dict(config.model)
    with scope_of(config):
        if random_teacher:
            teacher = build_detector(model['teacher'], 'teacher')
            forget_pretrained(teacher)
            teacher.init_weights()
            model.update(teacher=teacher, teacher_ckpt=None)
        built: DETRDistill = MODELS.build(model)
        forget_pretrained(built)
        built.init_weights()
    if random_teacher and isinstance(built.class_map_config, (str, dict)):
        names = teacher_class_names(config.model.teacher, built.teacher_adapter.num_classes)
        if names is not None:  # what its checkpoint is going to hold
            built.teacher_meta = dict(dataset_meta=dict(classes=names))
    return built


def forget_pretrained(detector: BaseModule) -> None:
    """Let a detector start from random weights, so that nothing is downloaded."""
    for module in detector.modules():
        if pretrained_sources(getattr(module, 'init_cfg', None)):
            module.init_cfg = None


def pretrained_sources(detector: Any) -> List[str]:
    """List where a config, or a part of it, takes pretrained weights from."""
    if isinstance(detector, (list, tuple)):
        return [name for item in detector for name in pretrained_sources(item)]
    if not isinstance(detector, dict):
        return []
    if class_of('WEIGHT_INITIALIZERS', detector.get('checkpoint') and detector) is PretrainedInit:
        return [detector['checkpoint']]
    return pretrained_sources(list(detector.values()))


def describe(model: DETRDistill) -> Rows:
    """Describe both detectors and how they are paired."""
    student, teacher = model.student_adapter, model.teacher_adapter
    sides = (student, teacher)

    def both(value: Any) -> str:
        return ' / '.join(str(value(side)) for side in sides)

    depths = [side.num_layers[1] for side in sides]
    groups = stage_groups(depths[0], depths[1])
    paired = ', '.join(f'S{s + 1} <- {[t + 1 for t in g]}' for s, g in enumerate(groups))
    rows = [
        ('', 'student / teacher'),
        ('detector', both(lambda side: type(side.detector).__name__)),
        ('backbone', both(lambda side: type(side.detector.backbone).__name__)),
        ('width', both(lambda side: side.embed_dims)),
        ('queries', both(lambda side: side.num_queries)),
        ('kind of query', both(lambda side: side.query_kind)),
        ('class head', both(lambda side: side.activation)),
        ('classes', both(lambda side: 'by prompt' if side.prompted else side.num_classes)),
        ('encoder layers', both(lambda side: side.num_layers[0])),
        ('decoder stages', f'{depths[0]} / {depths[1]}: {paired}'),
        ('parameters (M)', both(lambda side: round(parameters_of(side.detector) / 1e6, 2))),
    ]
    learned = parameters_of(model.distiller) / 1e6
    if learned:
        rows.append(('learned between them (M)', f'{learned:.3f}'))
    for name, loss in model.distiller.pair_losses.items():
        if loss.injects:
            for rule in loss.rules.values():
                why = '; '.join(rule.passed_over)
                chosen = type(rule).__name__
                rows.append((f'{name} injects', f'{chosen}, since {why}' if why else chosen))
    return rows


def describe_start(config: Config, model: DETRDistill) -> Rows:
    """Describe the weights that the student's training starts from, unless they are random.

    Raises:
        CheckpointError: those of `load_from` or `resume` do not fit the model.
    """
    names = pretrained_sources(detector_config(config.model.architecture, 'architecture'))
    start = check_start(config, model)
    rows = [('student starts from', start)] if start else []
    if not names or start:
        return rows
    text = f'{", ".join(names)} (not loaded for this check)'
    if any(name.startswith('torchvision://') for name in names) and not find_spec('torchvision'):
        text += '; needs torchvision, which is missing'
    return [('student starts from', text)]


def describe_optimizer(config: Config, model: DETRDistill) -> Rows:
    """Build the optimizer as a training does, and count its parameter groups.

    Raises:
        ValueError: a group has None for its weight decay, which no step can use.
    """
    if 'optim_wrapper' not in config:
        return []
    config = deepcopy(config)
    use_student_names(config)
    groups = build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups
    if any(group.get('weight_decay', 0) is None for group in groups):
        raise ValueError(
            'optim_wrapper.constructor gives parameters no weight decay to step with: set '
            'optim_wrapper.optimizer.weight_decay, 0 for none'
        )
    rates = sorted({group['lr'] for group in groups})
    text = f'{len(groups)} parameter groups, learning rates {rates[0]:g} to {rates[-1]:g}'
    return [('optimizer', text)]


def parameters_of(module: nn.Module) -> int:
    """Count the scalars, each shared parameter once."""
    return sum(parameter.numel() for parameter in module.parameters())

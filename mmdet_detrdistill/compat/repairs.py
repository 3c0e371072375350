"""Repair five places where MMRazor 1.0.0 relies on older PyTorch, MMEngine and mmcls.

Each is repaired once, after MMRazor's import, in MMRazor alone, and only where it is broken.
"""

import importlib
from collections import OrderedDict
from functools import lru_cache, wraps
from typing import Any, Callable, Dict, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@lru_cache(maxsize=None)
def repair_mmrazor() -> None:
    """Repair all; nothing the second time."""
    _switch_inplace_off()
    _give_soft_cross_entropy()
    _name_missing_group()
    _validate_any_outputs()
    _find_recorders_in_any_scope()


def _switch_inplace_off() -> None:
    """Switch `inplace` off: MMRazor's search skips `nn.Module._modules`, now a plain dict.

    Otherwise an in-place ReLU overwrites the input that a recorder keeps.
    """
    if isinstance(nn.Module()._modules, OrderedDict):
        return

    def set_module_inplace_false(self: Any, architecture: Any, varstr: str) -> None:
        for module in architecture.modules():
            if hasattr(module, 'inplace'):
                module.inplace = False

    algorithm = importlib.import_module('mmrazor.models.algorithms.base').BaseAlgorithm
    algorithm.set_module_inplace_false = set_module_inplace_false


def soft_cross_entropy(
    pred: Tensor,
    label: Tensor,
    weight: Optional[Tensor] = None,
    reduction: str = 'mean',
    class_weight: Optional[Tensor] = None,
    avg_factor: Optional[int] = None,
) -> Tensor:
    """Compute the cross entropy of logits (N, C) under soft labels (N, C), as mmcls does."""
    from mmdet.models.losses.utils import weight_reduce_loss

    terms = -label * F.log_softmax(pred, dim=-1)
    if class_weight is not None:
        terms = terms * class_weight
    weight = None if weight is None else weight.float()
    loss: Tensor = weight_reduce_loss(terms.sum(-1), weight, reduction, avg_factor)
    return loss


def _give_soft_cross_entropy() -> None:
    """Give `KDSoftCELoss` the function of mmcls that it needs; mmcls refuses MMCV 2.1."""
    module: Any = importlib.import_module('mmrazor.models.losses.kd_soft_ce_loss')
    if isinstance(module.soft_cross_entropy, type):  # MMRazor's own placeholder
        module.soft_cross_entropy = soft_cross_entropy


def _name_missing_group() -> None:
    """Raise RuntimeError without a process group, as MMRazor documents, not ValueError."""
    gather = importlib.import_module('mmrazor.models.architectures.ops').GatherTensors
    original = gather.forward

    def forward(ctx: Any, tensor: Tensor) -> Any:
        try:
            return original(ctx, tensor)
        except ValueError as error:
            raise RuntimeError(str(error)) from error

    gather.forward = staticmethod(forward)


def _validate_any_outputs() -> None:
    """Let MMRazor's validation loops take any outputs; MMEngine's step now expects a list."""
    loops = importlib.import_module('mmengine.runner.loops')
    if not hasattr(loops, '_update_losses'):
        return

    @torch.no_grad()
    def run_iter(self: Any, idx: int, data_batch: Sequence[Dict[str, Any]]) -> None:
        about = dict(batch_idx=idx, data_batch=data_batch)
        self.runner.call_hook('before_val_iter', **about)
        with loops.autocast(enabled=self.fp16):
            outputs = self.runner.model.val_step(data_batch)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook('after_val_iter', **about, outputs=outputs)

    engine = importlib.import_module('mmrazor.engine')
    for loop in (engine.SingleTeacherDistillValLoop, engine.SelfDistillValLoop):
        loop.run_iter = run_iter


def _find_recorders_in_any_scope() -> None:
    """Build recorders in MMRazor's scope, whatever default scope a `Runner` has set."""
    tasks = importlib.import_module('mmrazor.models.task_modules')
    for manager in (tasks.RecorderManager, tasks.DistillDeliveryManager):
        manager.__init__ = _in_scope_of_mmrazor(manager.__init__)


def _in_scope_of_mmrazor(function: Callable[..., None]) -> Callable[..., None]:
    from mmengine.registry import DefaultScope  # not before the environment was checked

    @wraps(function)
    def scoped(*args: Any, **kwargs: Any) -> None:
        with DefaultScope.overwrite_default_scope('mmrazor'):
            function(*args, **kwargs)

    return scoped

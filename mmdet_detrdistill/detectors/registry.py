"""Build a detector from a config, and the adapter of a detector."""

from typing import Any, Callable, Dict, Optional, Sequence, Type, Union

from mmdet.models import dense_heads
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from torch import nn

from ..config.load import detector_config
from ..registry import scope_of
from .base import DetectorAdapter

#: the class whose methods an adapter knows, by its name
_ADAPTERS: Dict[str, Type[DetectorAdapter]] = dict.fromkeys(
    ('DetectionTransformer', 'DETR', 'ConditionalDETR', 'DABDETR', 'DeformableDETR', 'DINO'),
    DetectorAdapter,
)
#: methods of a detector that no adapter calls: their work is done stage by stage
BYPASSED = {
    'student': ('train_step', 'parse_losses', 'forward', 'loss', 'forward_transformer'),
    'teacher': ('forward_transformer',),
}
#: heads whose `loss` is `forward` and `loss_by_feat`
PLAIN_HEADS = tuple(
    getattr(dense_heads, name)
    for name in ('DETRHead', 'ConditionalDETRHead', 'DeformableDETRHead', 'DINOHead')
)


def register_adapter(detector: str) -> Callable[[Type[DetectorAdapter]], Type[DetectorAdapter]]:
    """Register an adapter for detectors whose class, or nearest base, has this name."""

    def register(adapter: Type[DetectorAdapter]) -> Type[DetectorAdapter]:
        _ADAPTERS[detector] = adapter
        return adapter

    return register


def build_adapter(detector: nn.Module, side: str = 'student') -> DetectorAdapter:
    """Build the registered adapter of the nearest class of `detector`; a plain subclass needs none.

    Args:
        detector: a built MMDetection detector.
        side: 'student' or 'teacher'.

    Raises:
        TypeError: no known family, naming the stages that the detector lacks; or a class below the
            known one overrides a method that the adapter does not call, naming both.
    """
    classes = type(detector).__mro__
    known = next((cls for cls in classes if cls.__name__ in _ADAPTERS), BaseDetector)
    adapter = _ADAPTERS.get(known.__name__, DetectorAdapter)
    built = adapter(detector, side)
    departure = _override(classes, known.__mro__, BYPASSED[side])
    if side == 'student' and adapter.task_loss is DetectorAdapter.task_loss:
        departure = departure or _override(type(built.head).__mro__, PLAIN_HEADS, ['loss'])
    if departure is not None:
        raise TypeError(
            f'{side} {classes[0].__name__}: {departure} is an override that a distillation does '
            'not call, since it runs the detector stage by stage; what it adds would be missing. '
            f"Register an adapter with @register_adapter('{classes[0].__name__}') that does the "
            'same, see docs/new_detector.md.'
        )
    return built


def build_detector(detector: Union[str, Dict[str, Any]], role: str) -> BaseDetector:
    """Build the detector that a config names in one of the ways of `detector_config`.

    Args:
        detector: path, path with options, or model config.
        role: 'architecture' or 'teacher', for messages.

    Raises:
        ImportError: a detector that reads text needs `transformers`.
        FileNotFoundError: the config, or the language model that it names, is not there.
        ValueError: see `detector_config`.
    """
    config = detector_config(detector, role)
    needs_text = ImportError(
        f"{role} {config.type} reads text: pip install 'mmdet_detrdistill[text]', that is "
        'transformers before 5'
    )
    try:
        with scope_of():
            built = MODELS.build(config)
    except (RuntimeError, OSError, ValueError) as error:
        if 'transformers is not installed' in str(error):
            raise needs_text from error
        from_hub = isinstance(error, OSError) or 'huggingface' in type(error).__module__
        if from_hub and 'language_model' in config:
            raise FileNotFoundError(
                f'{role}: the language model {config.language_model.name!r} is neither a folder '
                "nor in the cache of transformers: give options={'language_model.name': FOLDER} "
                'with config.json, vocab.txt and weights'
            ) from error
        raise
    tokenizer = getattr(getattr(built, 'language_model', None), 'tokenizer', None)
    if tokenizer is not None and not hasattr(tokenizer, 'batch_encode_plus'):
        raise needs_text
    return built


def _override(
    classes: Sequence[type], known: Sequence[type], methods: Sequence[str]
) -> Optional[str]:
    """Return 'Class.method' of the first of `methods` that a class outside of `known` defines."""
    for method in methods:
        owner = next((cls for cls in classes if method in vars(cls)), None)
        if owner is not None and owner not in known:
            return f'{owner.__name__}.{method}'
    return None

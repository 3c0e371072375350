"""From a config to a detector, and from a detector to its adapter."""

from typing import Any, Callable, Dict, Type, Union

from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torch import nn

from ..config.read import detector_config
from .base import DetectorAdapter

_ADAPTERS: Dict[str, Type[DetectorAdapter]] = {'DetectionTransformer': DetectorAdapter}


def register_adapter(detector: str) -> Callable[[Type[DetectorAdapter]], Type[DetectorAdapter]]:
    """Class decorator: the adapter for detectors whose class, or nearest base, has this name."""

    def register(adapter: Type[DetectorAdapter]) -> Type[DetectorAdapter]:
        _ADAPTERS[detector] = adapter
        return adapter

    return register


def build_adapter(detector: nn.Module, side: str = 'student') -> DetectorAdapter:
    """The registered adapter of the nearest class of `detector`; a plain subclass needs none.

    Raises:
        TypeError: no known family; names the stages that the detector lacks.
    """
    for cls in type(detector).__mro__:
        if cls.__name__ in _ADAPTERS:
            return _ADAPTERS[cls.__name__](detector, side)
    return DetectorAdapter(detector, side)


def build_detector(detector: Union[str, Dict[str, Any]], role: str) -> nn.Module:
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
    try:
        with DefaultScope.overwrite_default_scope('mmdet'):
            return MODELS.build(config)
    except (RuntimeError, OSError, ValueError) as error:
        if 'transformers is not installed' in str(error):
            raise ImportError(
                f"{role} {config.type} reads text: pip install 'mmdet_detrdistill[text]', that is "
                'transformers before 5'
            ) from error
        from_hub = isinstance(error, OSError) or 'huggingface' in type(error).__module__
        if from_hub and 'language_model' in config:
            raise FileNotFoundError(
                f'{role}: the language model {config.language_model.name!r} is neither a folder '
                "nor in the cache of transformers: give options={'language_model.name': FOLDER} "
                'with config.json, vocab.txt and weights'
            ) from error
        raise

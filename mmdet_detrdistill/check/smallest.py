"""The smallest images that a training will see, which the first batch need not show."""

from typing import Any, Iterator, List, Optional, Sequence, Tuple

from mmcv.image import rescale_size
from mmengine.config import Config

from ..config.coco_format import leaf_datasets
from ..distillation.algorithm import DETRDistill
from ..registry import class_of

Scale = Tuple[Tuple[float, float], bool]  # (width, height), and whether the ratio is kept


def check_smallest_image(
    config: Config, model: DETRDistill, samples: Sequence[Any]
) -> List[Tuple[str, str]]:
    """Make the feature maps of the smallest image of a config's pipeline on both sides.

    Args:
        config: its training data.
        model: the distillation.
        samples: `DetDataSample`s, whose images' ratio counts where the pipeline keeps it.

    Returns:
        A row that names the size; none where the pipeline resizes nothing.

    Raises:
        ValueError: a two-stage detector finds fewer positions in it than it picks queries.
    """
    metas = (sample.metainfo for sample in samples)
    size = smallest_image(config, [meta.get('ori_shape', meta['img_shape'])[:2] for meta in metas])
    if size is None:
        return []
    divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1)
    padded = (-(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor)
    for adapter in (model.student_adapter, model.teacher_adapter):
        if getattr(adapter.detector, 'as_two_stage', False):
            adapter.check_room(adapter.probe(padded), padded)
    return [('smallest image', f'{size[0]} x {size[1]} pixels')]


def smallest_image(config: Config, shapes: Sequence[Tuple[int, int]]) -> Optional[Tuple[int, int]]:
    """(H, W) of the smallest image that the training pipeline makes of `shapes`, None = unknown."""
    loader = config.get('train_dataloader') or {}
    if not loader:
        return None
    scales = last_scales(loader['dataset'].get('pipeline') or [])  # that of a wrapper comes last
    for dataset in () if scales else leaf_datasets(loader['dataset']):
        scales += last_scales(dataset.get('pipeline') or [])
    sizes = []
    for (width, height), keeps_ratio in scales:
        for shape in shapes if keeps_ratio else [(height, width)]:
            scale = (int(width), int(height))
            found = rescale_size(shape[::-1], scale) if keeps_ratio else scale
            sizes.append((found[1], found[0]))
    return min(sizes, key=lambda size: size[0] * size[1], default=None)


def last_scales(pipeline: Sequence[Any]) -> List[Scale]:
    """Scales that the last resizing transform of a pipeline may take, in each of its branches."""
    scales: List[Scale] = []
    for transform in pipeline:
        if not isinstance(transform, dict):
            continue
        if 'transforms' in transform:  # of a RandomChoice each branch, of others one
            branches = transform['transforms']
            lists = [b if isinstance(b, (list, tuple)) else [b] for b in branches]
            found = [scale for branch in lists for scale in last_scales(branch)]
        else:
            found = list(_scales(transform))
        scales = found or scales
    return scales


def _scales(transform: Any) -> Iterator[Scale]:
    kind = getattr(class_of('TRANSFORMS', transform), '__name__', '')
    scales = transform.get('scales')
    if scales is None:
        scale = transform.get('scale')
        scales = scale if isinstance(scale, (list, tuple)) and _is_pair(scale[0]) else [scale]
    if 'Resize' not in kind or None in scales:
        return
    factor = (transform.get('ratio_range') or (1.0,))[0]
    pairs = [tuple(s) if _is_pair(s) else (s, s) for s in scales]
    if kind == 'RandomResize' and len(pairs) > 1:  # a range: both sides at their least
        pairs = [(min(p[0] for p in pairs), min(p[1] for p in pairs))]
    for width, height in pairs:
        yield (width * factor, height * factor), bool(transform.get('keep_ratio', False))


def _is_pair(scale: Any) -> bool:
    return isinstance(scale, (list, tuple))

"""What `tools/check.py` reads off a config, a model and one step."""

import math
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..detectors import DetectorAdapter
from ..detectors.class_map import class_names
from ..distillation.algorithm import DETRDistill
from ..functional.stages import stage_groups
from ..losses.feature_kd import paired_levels

Rows = List[Tuple[str, str]]
#: gradient norm of a distillation loss over that of the task loss that is taken as sane
SANE = (0.05, 2.0)


def first_batch(
    config: Config, size: Sequence[int], num_classes: int, synthetic: bool
) -> Tuple[Dict[str, Any], str, Optional[List[str]]]:
    """The first batch of the training data, or a synthetic one of `size` when there is no data.

    Returns:
        The batch, where it is from, and the class names of the data.
    """
    names = data_class_names(config)
    if synthetic:
        return synthetic_batch(size, num_classes), 'synthetic', names
    loader_config = dict(config.train_dataloader, num_workers=0, persistent_workers=False)
    loader_config.pop('prefetch_factor', None)
    try:
        loader = Runner.build_dataloader(loader_config, seed=0)
        batch = next(iter(loader))
    except FileNotFoundError as error:
        source = f'synthetic, since {error.filename or error} is missing'
        return synthetic_batch(size, num_classes), source, names
    names = class_names(getattr(loader.dataset, 'metainfo', None) or {})
    return batch, 'first batch of the training data', names


def data_class_names(config: Config) -> Optional[List[str]]:
    """Class names that a config gives its training data; the data is not read. None: none."""
    dataset = config.get('train_dataloader', {}).get('dataset', {})
    while 'dataset' in dataset or dataset.get('datasets'):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    known = getattr(DATASETS.get(dataset.get('type', '')), 'METAINFO', {})
    return class_names({**known, **(dataset.get('metainfo') or {})})


def teacher_class_names(
    teacher: Union[str, Dict[str, Any]], num_classes: int
) -> Optional[List[str]]:
    """Class names of the data in the config of a teacher that has no checkpoint yet.

    Args:
        teacher: a path, or `dict(cfg_path=path)`; None for others.
        num_classes: of the teacher; names of another number are not its own.
    """
    path = teacher if isinstance(teacher, str) else teacher.get('cfg_path')
    if path is None:
        return None
    names = data_class_names(get_config(path) if '::' in path else Config.fromfile(path))
    return names if names is not None and len(names) == num_classes else None


def describe(model: DETRDistill) -> Rows:
    """Both sides and how they are paired."""
    student, teacher = model.student_adapter, model.teacher_adapter
    sides = (student, teacher)

    def both(value: Any) -> str:
        return ' / '.join(str(value(side)) for side in sides)

    depths = [side.detector.decoder.num_layers for side in sides]
    groups = stage_groups(*depths)
    paired = ', '.join(f'S{s + 1} <- {[t + 1 for t in g]}' for s, g in enumerate(groups))
    rows = [
        ('', 'student / teacher'),
        ('detector', both(lambda side: type(side.detector).__name__)),
        ('backbone', both(lambda side: type(side.detector.backbone).__name__)),
        ('width', both(lambda side: side.embed_dims)),
        ('queries', both(lambda side: side.detector.num_queries)),
        ('kind of query', both(lambda side: side.query_kind)),
        ('class head', both(lambda side: side.activation)),
        ('classes', both(lambda side: side.num_classes)),
        ('encoder layers', both(lambda side: side.detector.encoder.num_layers)),
        ('decoder stages', f'{depths[0]} / {depths[1]}: {paired}'),
        ('parameters (M)', both(lambda side: round(parameters_of(side.detector) / 1e6, 2))),
    ]
    learned = parameters_of(model.distiller) / 1e6
    if learned:
        rows.append(('learned between them (M)', f'{learned:.3f}'))
    for name, loss in model.distiller.pair_losses.items():
        if loss.injects:
            why = '; '.join(loss.injection.passed_over)
            chosen = type(loss.injection).__name__
            rows.append((f'{name} injects', f'{chosen}, since {why}' if why else chosen))
    return rows


def check_predictions(student: DetectorAdapter) -> None:
    """ValueError when validation would ask for more predictions than the student makes."""
    wanted = (student.detector.test_cfg or {}).get('max_per_img', 0)
    per_query = student.num_classes if student.activation == 'sigmoid' else 1
    found = student.detector.num_queries * per_query
    if wanted > found:
        raise ValueError(
            f'test_cfg.max_per_img is {wanted}, but {student.detector.num_queries} queries give '
            f'{found} predictions: validation would fail. Set it to {found} or less.'
        )


def describe_levels(model: DETRDistill, images: Tensor, samples: List[Any]) -> Rows:
    """Strides of the feature levels on both sides, and those that they share."""
    sizes = []
    with torch.no_grad():
        for adapter in (model.student_adapter, model.teacher_adapter):
            _check_room_for_queries(adapter, images)
            sizes.append(adapter.forward_pass(images, samples).state.sizes)
    strides = [[_stride(images.shape[-1], width) for _, width in side] for side in sizes]
    text = f'{strides[0]} / {strides[1]}'
    if 'loss_feature_kd' in model.distiller.pair_losses:
        shared = [strides[0][own] for own, _ in paired_levels(*sizes)]
        text += f', distilled: {shared}'
    return [('feature strides', text)]


def _check_room_for_queries(adapter: DetectorAdapter, images: Tensor) -> None:
    """Two-stage detectors pick their queries among the pixels of the feature maps."""
    detector = adapter.detector
    pixels = sum(feat.shape[-2] * feat.shape[-1] for feat in detector.extract_feat(images))
    if getattr(detector, 'as_two_stage', False) and pixels < detector.num_queries:
        raise ValueError(
            f'images of {tuple(images.shape[-2:])} pixels give {pixels} feature pixels, the '
            f'{adapter.side} picks {detector.num_queries} queries among them: use larger images '
            '(--size for synthetic ones) or fewer queries'
        )


def _stride(image_side: int, map_side: int) -> int:
    """The least power of two that gives a map of this size when rounded up, else the ratio."""
    powers = (2**i for i in range(10))
    fitting = (power for power in powers if math.ceil(image_side / power) == map_side)
    return next(fitting, round(image_side / map_side))


def parameters_of(module: nn.Module) -> int:
    """Number of scalars, each shared parameter once."""
    return sum(parameter.numel() for parameter in module.parameters())


def synthetic_batch(size: Sequence[int], num_classes: int) -> Dict[str, List[Any]]:
    """Two random images, (H, W) and 7/8 of it, so that one is padded; 3 and 0 objects."""
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for index, count in enumerate((3, 0)):
        height, width = (side * (8 - index) // 8 for side in size)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        start = torch.rand(count, 2, generator=generator) * 0.5
        extent = 0.2 + torch.rand(count, 2, generator=generator) * 0.3
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_path=f'synthetic {index}',
                img_shape=(height, width),
                ori_shape=(height, width),
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat((start, start + extent), -1) * scale,
            labels=torch.randint(0, num_classes, (count,), generator=generator),
        )
        inputs.append(image)
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def gradient_norms(model: nn.Module, losses: Dict[str, Any]) -> Dict[str, Tuple[float, float]]:
    """Value, and L2 norm of the gradient in the student, of the task loss and each named loss.

    Args:
        model: a `DETRDistill`.
        losses: what its `loss` returned; the graph is kept.

    Returns:
        {'task': (value, norm), 'loss_x_kd': (value, norm), ...}
    """
    groups: Dict[str, List[Tensor]] = {'task': []}
    for name in model.distiller.distill_losses:
        groups[name] = []
    for name, value in losses.items():
        if 'loss' not in name:
            continue
        owner = name.split('.')[0]
        owner = owner if owner in model.distiller.distill_losses else 'task'
        groups[owner] += [v.mean() for v in (value if isinstance(value, list) else [value])]
    parameters = [p for p in model.student.parameters() if p.requires_grad]
    found = {}
    for name, values in groups.items():
        if values:
            total = torch.stack(values).sum()
            grads = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
            square = sum(float(grad.square().sum()) for grad in grads if grad is not None)
            found[name] = (float(total), square**0.5)
    return found


def verdict(norm: float, task_norm: float, weight: Optional[float]) -> str:
    """Whether a gradient is of a sane size beside the task loss's, and a weight that helps."""
    if weight is None or task_norm == 0:
        return ''
    ratio = norm / task_norm
    if ratio == 0:
        return ', no gradient in this batch'
    if SANE[0] <= ratio <= SANE[1]:
        return f', sane ({ratio:.2g} x task)'
    suggested = weight * 0.5 / ratio
    return f', {ratio:.2g} x task: try loss_weight={suggested:.2g} for 0.5 x'


def count_flops(adapter: DetectorAdapter, images: Tensor, samples: List[Any]) -> str:
    """Forward GFLOPs per image: products, convolutions, the sampling of deformable attention.

    Deformable attention counts where it runs as PyTorch's grid sampling, that is on the CPU.
    """
    try:
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError:
        return 'n/a (torch < 2.1)'

    def sampling(input_shape: Any, grid_shape: Any, *args: Any, out_shape: Any, **kw: Any) -> int:
        number = 1
        for side in out_shape:
            number *= side
        return 7 * number  # four products and three sums per bilinear value

    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.grid_sampler_2d: sampling}
    )
    training = adapter.detector.training
    adapter.detector.eval()
    try:
        with counter:
            adapter.forward_pass(images, samples)
    finally:
        adapter.detector.train(training)
    return f'{counter.get_total_flops() / 1e9 / len(images):.2f}'


class Memory:
    """Peak memory: of the device's allocator on a GPU, else the process's resident set."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.peak = 0

    def text(self) -> str:
        where = 'on the GPU' if self.device.startswith('cuda') else 'resident, whole process'
        return f'{self.peak / 2**20:.0f} MiB {where}'


@contextmanager
def peak_memory(device: str) -> Iterator[Memory]:
    """Measure a block."""
    memory = Memory(device)
    if device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats()
    yield memory
    if device.startswith('cuda'):
        memory.peak = torch.cuda.max_memory_allocated()
    else:
        import resource  # not on Windows

        memory.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

"""The final card: size, cost and speed of each detector, measured side by side in one run."""

import os
import statistics
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .roles import Group
from .work_dir import TrainingRun, WorkDirError, class_scores

BATCH = 8


def detector_of(run: TrainingRun) -> Any:
    """The detector of a run, a distillation's student alone, with its weights, in eval mode."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    from mmdet_detrdistill.checkpoints.export import student_config, student_state_dict
    from mmdet_detrdistill.checkpoints.read import load_checkpoint_file, load_state_strictly

    config = student_config(Config.fromfile(run.config_path))
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config.model)
    if run.checkpoint is not None:
        weights = student_state_dict(load_checkpoint_file(run.checkpoint))
        load_state_strictly(model, weights, run.checkpoint, what='detector')
    return model.eval()


def first_image(run: TrainingRun) -> Optional[Tuple[Any, Any]]:
    """The first validation image as its pipeline leaves it, and its sample; None without data."""
    from mmengine.config import Config
    from mmengine.registry import DATASETS, DefaultScope

    config = Config.fromfile(run.config_path)
    try:
        with DefaultScope.overwrite_default_scope('mmdet'):
            dataset = DATASETS.build(config.val_dataloader.dataset)
        entry = dataset[0]
    except (FileNotFoundError, AttributeError):
        return None
    return entry['inputs'], entry['data_samples']


def card(run: TrainingRun) -> Dict[str, Any]:
    """What needs no clock: parameters, bytes of weights and of the checkpoint file."""
    from mmdet_detrdistill.check.model import parameters_of

    model = detector_of(run)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    file = None if run.checkpoint is None else os.path.getsize(run.checkpoint)
    return {
        'model': model,
        'parameters': parameters_of(model),
        'weights_bytes': size,
        'checkpoint_bytes': file,
    }


def measure(
    groups: Sequence[Group], seconds: float = 6.0
) -> Tuple[List[Dict[str, Any]], Dict[str, Any], List[str]]:
    """Card of each group's first run, how it was measured, and what could not be.

    Latency is the median time of one image, throughput that of a batch of 8 equal ones, forward
    pass and boxes, without loading and without non-maximum suppression, which DETRs do not need.
    The detectors take turns, image by image, so that a busy machine slows them alike.

    Args:
        seconds: how long each of the two is measured, in total; at least three rounds.
    """
    import torch

    from mmdet_detrdistill.check.model import count_flops
    from mmdet_detrdistill.detectors import build_adapter

    cards, missing = [], []
    for group in groups:
        try:
            cards.append(card(group.runs[0]))
        except Exception as error:  # a config of anybody: one that does not build is named
            cards.append({})
            missing.append(
                f'{group.label}: not measured, {type(error).__name__}: '
                + ' '.join(str(error).split())[:200]
            )
    given = next(filter(None, (first_image(group.runs[0]) for group in groups)), None)
    how: Dict[str, Any] = {}
    present = [entry for entry in cards if entry]
    if given is None or not present:
        missing.append('FLOPs, latency and throughput: the validation data are not there')
    else:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        for entry in present:
            model = entry['model']
            batch = dict(inputs=[given[0]], data_samples=[given[1]])
            data = model.data_preprocessor(batch, training=False)
            # on the CPU: deformable attention counts only there
            flops = count_flops(build_adapter(model), data['inputs'], data['data_samples'])
            entry['gflops'] = None if flops.startswith('n/a') else float(flops)
            model.to(device)
        single, batched = (time_batches(present, given, n, device, seconds) for n in (1, BATCH))
        for entry, one, many in zip(present, single, batched):
            entry['latency_ms'] = round(1000 * statistics.median(one), 2)
            entry['latency_range_ms'] = [round(1000 * f(one), 2) for f in (min, max)]
            entry['images_per_second'] = round(BATCH / statistics.median(many), 1)
        how = {
            'image': 'x'.join(str(side) for side in given[0].shape[-2:]),
            'device': torch.cuda.get_device_name(0) if device == 'cuda' else 'CPU',
            'threads': torch.get_num_threads(),
            'rounds': len(single[0]),
            'batch': BATCH,
        }
    for entry in present:
        del entry['model']
    return cards, how, missing


def time_batches(
    cards: Sequence[Dict[str, Any]], given: Tuple[Any, Any], size: int, device: str, seconds: float
) -> List[List[float]]:
    """Seconds per forward pass of each detector, in turns, after one warm-up."""
    import torch

    found: List[List[float]] = [[] for _ in cards]
    inputs = []
    for entry in cards:
        batch = dict(inputs=[given[0]] * size, data_samples=[given[1]] * size)
        inputs.append(entry['model'].data_preprocessor(batch, training=False))

    def run(index: int) -> float:
        data = inputs[index]
        if device == 'cuda':
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.no_grad():
            cards[index]['model'].predict(data['inputs'], data['data_samples'], rescale=False)
        if device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for index in range(len(cards)):
        run(index)
    end = time.perf_counter() + seconds
    while len(found[0]) < 3 or (time.perf_counter() < end and len(found[0]) < 200):
        for index in range(len(cards)):
            found[index].append(run(index))
    return found


def evaluate_classes(run: TrainingRun) -> None:
    """Set `per_class` (and `curve`, where it is empty) by evaluating the last checkpoint.

    Raises:
        WorkDirError: there is no checkpoint.
        FileNotFoundError: the validation data are not there.
    """
    import tempfile

    from mmengine.config import Config
    from mmengine.runner import Runner

    from mmdet_detrdistill.checkpoints.export import student_config, student_state_dict
    from mmdet_detrdistill.checkpoints.read import load_checkpoint_file, load_state_strictly

    from .work_dir import METRICS

    if run.checkpoint is None:
        raise WorkDirError(f'{run.folder}: there is no checkpoint to evaluate')
    config = student_config(Config.fromfile(run.config_path))
    metrics = config.test_evaluator
    for metric in metrics if isinstance(metrics, list) else [metrics]:
        if metric.type == 'CocoMetric':
            metric.classwise = True
    config.load_from, config.resume = None, False
    with tempfile.TemporaryDirectory() as folder:
        config.work_dir = folder
        runner = Runner.from_cfg(config)
        weights = student_state_dict(load_checkpoint_file(run.checkpoint))
        load_state_strictly(runner.model, weights, run.checkpoint, what='student')
        values = runner.test()
    run.per_class = class_scores(values)
    if not run.curve:
        scores = {name: round(100 * values[key], 1) for name, key in METRICS.items()}
        epochs = (run.settings.get('train_cfg') or {}).get('max_epochs')
        run.curve = [{'epoch': epochs, **scores}]

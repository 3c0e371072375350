"""Size, cost and speed of each detector, measured side by side, and evaluations made up for."""

import os
import statistics
import tempfile
import time
from typing import Any, Dict, List, Sequence, Tuple

import torch
from mmengine.registry import DATASETS

from mmdet_detrdistill import api
from mmdet_detrdistill.check.model import parameters_of
from mmdet_detrdistill.check.run import parts_of_step
from mmdet_detrdistill.check.step import count_flops
from mmdet_detrdistill.checkpoints.export import build_student, student_config
from mmdet_detrdistill.config.load import load_config
from mmdet_detrdistill.detectors import build_adapter
from mmdet_detrdistill.registry import scope_of

from .summary import Group
from .work_dir import TrainingRun, WorkDirError, read_metrics

BATCH = 8


def config_of(run: TrainingRun) -> Any:
    """The config of the run's detector, in a distillation that of the student."""
    return student_config(load_config(os.path.join(run.folder, run.config)))


def build(run: TrainingRun) -> Dict[str, Any]:
    """The detector of a run in eval mode, its parameters, and bytes of weights and checkpoint."""
    model = build_student(config_of(run), run.checkpoint).eval()
    return {
        'model': model,
        'parameters': parameters_of(model),
        'weights_bytes': sum(t.numel() * t.element_size() for t in model.state_dict().values()),
        'checkpoint_bytes': run.checkpoint and os.path.getsize(run.checkpoint),
    }


def first_image(groups: Sequence[Group]) -> Dict[str, Any]:
    """The first validation image as its pipeline leaves it; empty where no data are there."""
    for group in groups:
        config = config_of(group.runs[0])
        try:
            with scope_of(config):
                return dict(DATASETS.build(config.val_dataloader.dataset)[0])
        except (FileNotFoundError, AttributeError):
            continue
    return {}


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
    cards: List[Dict[str, Any]] = []
    missing = []
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    for group in groups:
        run = group.runs[0]
        card, what = {}, 'not measured'
        try:
            card = build(run)
            what = 'what a step is made of is not measured'
            if run.distils:
                parts = parts_of_step(load_config(os.path.join(run.folder, run.config)), device)
                card['step'] = '; '.join(text for _, text in parts)
        except Exception as error:  # a config of anybody: one that does not build is named
            text = ' '.join(str(error).split())[:200]
            missing.append(f'{group.label}: {what}, {type(error).__name__}: {text}')
        cards.append(card)
    present, data = [card for card in cards if card], first_image(groups)
    models = [card.pop('model') for card in present]
    if not data or not models:
        missing.append('FLOPs, latency and throughput: the validation data are not there')
        return cards, {}, missing
    for card, model in zip(present, models):
        batch = batch_of(model, data, 1)
        # on the CPU: deformable attention counts only there
        flops = count_flops(build_adapter(model), batch['inputs'], batch['data_samples'])
        card['gflops'] = None if flops.startswith('n/a') else float(flops)
        model.to(device)
    single, batched = (time_batches(models, data, n, device, seconds) for n in (1, BATCH))
    for card, one, many in zip(present, single, batched):
        card['latency_ms'] = round(1000 * statistics.median(one), 2)
        card['latency_range_ms'] = [round(1000 * f(one), 2) for f in (min, max)]
        card['images_per_second'] = round(BATCH / statistics.median(many), 1)
    how = {
        'image': 'x'.join(str(side) for side in data['inputs'].shape[-2:]),
        'device': torch.cuda.get_device_name(0) if device == 'cuda' else 'CPU',
        'threads': torch.get_num_threads(),
        'rounds': len(single[0]),
        'batch': BATCH,
    }
    return cards, how, missing


def batch_of(model: Any, data: Dict[str, Any], size: int) -> Dict[str, Any]:
    """A batch of `size` equal images, preprocessed."""
    batch = {name: [data[name]] * size for name in ('inputs', 'data_samples')}
    return dict(model.data_preprocessor(batch, training=False))


@torch.no_grad()
def time_batches(
    models: Sequence[Any], data: Dict[str, Any], size: int, device: str, seconds: float
) -> List[List[float]]:
    """Seconds per forward pass of each detector, in turns, after one warm-up."""
    batches = [batch_of(model, data, size) for model in models]
    wait = torch.cuda.synchronize if device == 'cuda' else lambda: None
    taken: List[List[float]] = [[] for _ in models]
    end = time.perf_counter() + seconds
    while len(taken[0]) < 4 or (time.perf_counter() < end and len(taken[0]) < 200):
        for model, batch, times in zip(models, batches, taken):
            wait()
            start = time.perf_counter()
            model.predict(batch['inputs'], batch['data_samples'], rescale=False)
            wait()
            times.append(time.perf_counter() - start)
    return [times[1:] for times in taken]


def evaluate(run: TrainingRun) -> None:
    """Evaluate the last checkpoint: AP per class, and the metrics at the end of the curve.

    Raises:
        WorkDirError: there is no checkpoint.
        FileNotFoundError: the validation data are not there.
    """
    if run.checkpoint is None:
        raise WorkDirError(f'{run.folder}: there is no checkpoint to evaluate')
    config = config_of(run)
    evaluators = config.test_evaluator
    for metric in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        if str(metric.type).endswith('CocoMetric'):
            metric.classwise = True
    with tempfile.TemporaryDirectory() as config.work_dir:
        metrics, per_class = read_metrics(api.evaluate(config, run.checkpoint))
    train = run.settings.get('train_cfg') or {}
    run.add_evaluation(train.get('max_iters', train.get('max_epochs')), metrics, per_class)

"""What benchmarks/benchmark.py measures: whole steps, their parts, and memory."""

import time
import weakref
from dataclasses import replace
from functools import partial
from typing import Any, Callable, Collection, Dict, List, Mapping, Tuple

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.check.model import build
from mmdet_detrdistill.detectors import ForwardPass
from mmdet_detrdistill.detectors.pair import DistillPair

Step = Callable[[], Any]


class Footprint(TorchDispatchMode):
    """What is computed inside, on any device.

    Attributes:
        peak: bytes of all tensor storages that are made inside and alive at the same time, at their
            peak; not the scratch space inside an operator.
        live: those that are alive now.
        operations: PyTorch's operations that write to a tensor, views left out: on a GPU about the
            number of kernels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.operations = 0
        self.known: Dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outside = {t.untyped_storage()._cdata for t in tree_flatten((args, kwargs))[0] if _is(t)}
        result = func(*args, **(kwargs or {}))
        made = [t.untyped_storage() for t in filter(_is, tree_flatten(result)[0])]
        computes = any(storage._cdata not in outside for storage in made)
        self.operations += computes or func._schema.is_mutable
        for storage in made:
            key, size = storage._cdata, storage.nbytes()
            if key not in self.known and key not in outside:
                self.known[key] = weakref.finalize(storage, self._free, key, size)
                self.live += size
                self.peak = max(self.peak, self.live)
        return result

    def _free(self, key: int, size: int) -> None:
        self.known.pop(key, None)
        self.live -= size


def _is(value: Any) -> bool:
    return isinstance(value, Tensor)


def weight_bytes(module: torch.nn.Module) -> int:
    """Parameters and buffers."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def make_model(config: Config, device: str) -> DETRDistill:
    """The config's algorithm with random weights; heads are spread so that queries differ."""
    torch.manual_seed(0)
    config.model.architecture.backbone.init_cfg = None  # nothing is downloaded
    model = build(config, random_teacher=True)
    with torch.no_grad():
        for detector in (model.student, model.teacher):
            for parameter in detector.bbox_head.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.to(device).train()


def make_batch(
    size: Tuple[int, int], num_images: int, num_objects: int, num_classes: int, device: str
) -> Tuple[Tensor, List[Any]]:
    """Random images (B, 3, H, W), unpadded, and samples with `num_objects` each."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    images = torch.randn(num_images, 3, height, width, generator=generator).to(device)
    samples = []
    for number in range(num_images):
        corner = torch.rand(num_objects, 2, generator=generator) * 0.7
        extent = 0.05 + torch.rand(num_objects, 2, generator=generator) * 0.25
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        meta = dict(img_shape=size, ori_shape=size, batch_input_shape=size, pad_shape=size)
        sample = DetDataSample(metainfo=dict(meta, scale_factor=(1.0, 1.0), img_id=number))
        sample.gt_instances = InstanceData(
            bboxes=(torch.cat((corner, corner + extent), -1) * scale).to(device),
            labels=torch.randint(0, num_classes, (num_objects,), generator=generator).to(device),
        )
        samples.append(sample)
    return images, samples


def backward(total: Tensor) -> None:
    """Outside of autocast, as a training does it."""
    with torch.autocast(total.device.type, enabled=False):
        total.backward()


def whole_steps(
    model: DETRDistill, images: Tensor, samples: List[Any], recipes: Mapping[str, Collection[str]]
) -> Dict[str, Step]:
    """(a) the student's own step, (b) the teacher's inference, the distilled step of each recipe.

    Args:
        recipes: names of the losses that are on, by the name of the step.
    """

    def train(losses: Callable[[], Dict[str, Tensor]]) -> None:
        model.zero_grad(set_to_none=True)
        backward(model.parse_losses(losses())[0])

    def distilled(losses: Collection[str]) -> None:
        for name in model.distiller.pair_losses:
            model.distiller.set_scale(name, float(name in losses))
        train(lambda: model.loss(images, samples))

    return {
        'student': lambda: train(lambda: model.student.loss(images, samples)),
        'teacher': lambda: model.teacher_pass(images, samples),
        **{name: partial(distilled, losses) for name, losses in recipes.items()},
    }


def parts(model: DETRDistill, images: Tensor, samples: List[Any]) -> Dict[str, Callable[[], Step]]:
    """What the distilled step does besides: forward and backward of each loss, by itself.

    The losses are taken on finished passes, with gradients down to the student's memory and
    predictions only. `decoder` is the student's own decoder and head, for comparison with the
    injected pass. Each entry prepares a pass and returns what is to be timed.
    """
    with torch.no_grad():
        student = model.student_adapter.forward_pass(images, samples)
        teacher_forward = model.teacher_pass(images, samples)

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_()

    def fresh() -> DistillPair:
        inputs = dict(student.state.decoder_inputs)
        memory = leaf(student.state.memory)
        if 'memory' in inputs:
            inputs['memory'] = memory
        outputs = student.outputs
        forward = ForwardPass(
            replace(
                student.state,
                memory=memory,
                decoder_inputs=inputs,
                features=tuple(leaf(level) for level in student.state.features),
            ),
            replace(
                outputs,
                logits=leaf(outputs.logits),
                boxes=leaf(outputs.boxes),
                hidden_states=leaf(outputs.hidden_states),
            ),
        )
        adapters = model.student_adapter, model.teacher_adapter
        rules = model.distiller.injections
        return DistillPair(*adapters, forward, teacher_forward, samples, model.class_map, rules)

    def loss_step(name: str, pair: DistillPair) -> None:
        terms = model.distiller.pair_losses[name](pair)
        statistics = model.distiller.pair_losses[name].statistics
        backward(sum(value for term, value in terms.items() if term not in statistics))

    def decoder(pair: DistillPair) -> None:
        outputs = model.student_adapter.decode(pair.student_forward.state)
        backward(outputs.logits.sum() + outputs.boxes.sum())

    def assignment(pair: DistillPair) -> None:
        pair.teacher_assignment  # noqa: B018  made when it is read

    def prepared(run: Callable[[DistillPair], None], assigned: bool = True) -> Callable[[], Step]:
        def step() -> Step:
            pair = fresh()
            if assigned:
                assignment(pair)
            return lambda: run(pair)

        return step

    steps = {
        name[len('loss_') :]: prepared(lambda pair, n=name: loss_step(n, pair))
        for name in model.distiller.pair_losses
    }
    steps['gt_assignment'] = prepared(assignment, assigned=False)
    steps['decoder'] = prepared(decoder)
    if 'logits_kd' in steps:
        steps['matching'] = prepared(lambda pair: match_only(model, pair))
    return steps


def match_only(model: DETRDistill, pair: DistillPair) -> None:
    """The forward pass of `logits_kd`, which is little besides its matching."""
    with torch.no_grad():
        model.distiller.pair_losses['loss_logits_kd'](pair)


def timed(step: Step, device: str, clock: str = 'wall') -> float:
    """Seconds; by the clock 'cpu' those that all threads of the process computed, added up."""
    read = time.process_time if clock == 'cpu' else time.perf_counter
    wait(device)
    start = read()
    step()
    wait(device)
    return read() - start


def wait(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize()


def footprint(step: Step, device: str) -> Tuple[int, int]:
    """Bytes that a step allocates at its peak, gradients included and weights not; operations."""
    with Footprint() as found:
        step()
    if not device.startswith('cuda'):
        return found.peak, found.operations
    wait(device)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    wait(device)
    return torch.cuda.max_memory_allocated() - before, found.operations

"""The teacher: built, loaded and checked before anything is trained, then run on each batch."""

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import torch
from mmengine.model import BaseModel
from torch import Tensor

from ..checkpoints.read import load_strictly
from ..detectors import DetectorAdapter, ForwardPass, build_detector
from ..detectors.class_map import ClassMap, give_student_labels
from ..detectors.levels import num_channels
from .preprocessing import Renormalise


def build_teacher(
    teacher: Union[str, Dict[str, Any], BaseModel], checkpoint: Optional[str]
) -> Tuple[BaseModel, Dict[str, Any]]:
    """Build the teacher with its weights; also return the checkpoint's `meta` ({} if built).

    Raises:
        ValueError: a config without a checkpoint, since a random teacher teaches nothing.
        CheckpointError: the checkpoint does not fit.
    """
    if not isinstance(teacher, BaseModel):
        if checkpoint is None:
            raise ValueError(
                'teacher_ckpt is missing: a teacher built from a config has random weights. '
                'Give a checkpoint, for example --cfg-options model.teacher_ckpt=FILE'
            )
        teacher = build_detector(teacher, 'teacher')
    meta = {} if checkpoint is None else load_strictly(teacher, checkpoint, what='teacher')
    return teacher, meta


class TeacherPass:
    """The teacher's forward pass: no graph, and only what a loss reads is kept.

    `no_grad` and not `inference_mode`: the losses multiply teacher and student, and autograd
    refuses to save inference tensors for the student's backward pass.

    Args:
        adapter: the teacher's.
        renormalise: turns the student's batch into the teacher's, see `Renormalise`; None = the
            same images.
        autocast: dtype of the teacher's arithmetic, 'bfloat16' or 'float16'; None = as the
            training is. Its predictions are float32 again.
        channels_last: memory format of backbone and images.
        compile: options of `torch.compile` for the backbone, `dict()` for the defaults; PyTorch
            2.2 or later.

    Raises:
        ValueError: another dtype, or `compile` with an older PyTorch.
    """

    def __init__(
        self,
        adapter: DetectorAdapter,
        renormalise: Optional[Renormalise] = None,
        autocast: Optional[str] = None,
        channels_last: bool = False,
        compile: Optional[Dict[str, Any]] = None,
    ) -> None:
        if autocast not in (None, 'bfloat16', 'float16'):
            raise ValueError(
                f"teacher_pass.autocast must be None, 'bfloat16' or 'float16', got {autocast!r}"
            )
        self.adapter = adapter
        self.renormalise = renormalise
        self.dtype = None if autocast is None else getattr(torch, autocast)
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        backbone = adapter.detector.backbone
        if channels_last:
            backbone.to(memory_format=torch.channels_last)
        if compile is not None:
            if not hasattr(backbone, 'compile'):
                raise ValueError(
                    f'teacher_pass.compile needs PyTorch 2.2 or later; this is {torch.__version__}'
                )
            backbone.compile(**compile)

    @contextmanager
    def context(self) -> Iterator[None]:
        """Run a block as the teacher runs: no graph, its own autocast."""
        device = next(self.adapter.detector.parameters()).device.type
        with torch.no_grad(), ExitStack() as stack:
            if self.dtype is not None:
                stack.enter_context(torch.autocast(device, self.dtype))
            yield

    @torch.no_grad()
    def __call__(self, images: Tensor, samples: List[Any]) -> ForwardPass:
        """Run the teacher on images (B, 3, H, W), without what only its own loss would need."""
        if self.renormalise is not None:
            images = self.renormalise(images, samples)
        with self.context():
            state, outputs = self.adapter.forward_pass(
                images.to(memory_format=self.memory_format), samples
            )
        return ForwardPass(state, replace(outputs, decoder_outputs={}))

    @torch.no_grad()
    def predict(
        self, images: Tensor, samples: List[Any], class_map: Optional[ClassMap] = None
    ) -> List[Any]:
        """Predict as the teacher alone does, in the student's labels.

        Args:
            images: (B, C, H, W) as the student's preprocessor makes them.
            samples: B `DetDataSample`s.
            class_map: the two label sets, None when they are the same.

        Returns:
            The samples with `pred_instances`.
        """
        if self.renormalise is not None:
            images = self.renormalise(images, samples)
        samples = self.adapter.predict(images, samples)
        if class_map is not None:
            give_student_labels(samples, class_map)
        return samples


def check_teacher(student: DetectorAdapter, teacher: DetectorAdapter, same_classes: bool) -> None:
    """Refuse a teacher whose outputs do not mean the same as the student's.

    Args:
        student: adapter of the student; likewise `teacher`.
        same_classes: there is no class map, so that the numbers of classes must agree, but for a
            teacher that is prompted with the student's.

    Raises:
        ValueError: another number of classes or of image channels.
    """
    same_classes = same_classes and not teacher.prompted
    if same_classes and student.num_classes != teacher.num_classes:
        raise ValueError(
            f'the student has {student.num_classes} classes, the teacher {teacher.num_classes}: '
            "their class scores cannot be compared. Set bbox_head.num_classes, or class_map='auto' "
            'to pair the classes by name.'
        )
    channels = num_channels(student.detector), num_channels(teacher.detector)
    if channels[0] != channels[1]:
        raise ValueError(
            f'the student takes images of {channels[0]} channels, the teacher of {channels[1]}: '
            'they cannot see the same batch'
        )

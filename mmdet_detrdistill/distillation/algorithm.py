"""The algorithm: teacher, student, task loss, distillation losses."""

from copy import deepcopy
from typing import Any, Dict, List, Optional, Sequence, Union

import torch
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmrazor.models.algorithms import SingleTeacherDistill
from torch import Tensor, nn

from ..detectors import ForwardPass, build_adapter, build_detector
from ..detectors.class_map import ClassMap, ClassMapConfig, make_class_map
from ..detectors.pair import DistillPair
from ..functional.linear_assignment import COMPILED
from ..registry import class_of, register, scope_of
from .distiller import DETRDistiller
from .preprocessing import renormalisation
from .teacher import TeacherPass, build_teacher, check_teacher
from .unlabelled import PseudoLabels, is_unlabelled, without_objects

Config = Dict[str, Any]


@register('MODELS')
class DETRDistill(SingleTeacherDistill):
    """Distil a DETR-like teacher into a DETR-like student.

    Source: DETRDistill (Chang et al., ICCV 2023).

    Without distillation losses a training step equals the student's own bit for bit, and the
    teacher is not run. The teacher is kept outside the module tree: it follows device and dtype
    moves, and is in no checkpoint, optimizer group, gradient bucket or EMA copy. It is always in
    eval mode.

    Args:
        architecture: the student: a path (`mmdet::folder/config.py` or a file),
            `dict(cfg_path=path, options={...})` with overrides of that config's model, a detector
            config, or a built detector.
        teacher: likewise.
        teacher_ckpt: its checkpoint, loaded strictly; needed unless the teacher is already built.
        distiller: config of a `DETRDistiller`.
        data_preprocessor: None takes the student's; the teacher sees the same batch, renormalised
            where its own preprocessor differs.
        init_cfg: as in MMEngine.
        class_map: for a teacher with other classes: 'auto' pairs them by name,
            {student name: teacher name} does so after renaming, a list gives the teacher's label
            per student class, -1 = none. Names come from the checkpoint and the training data, see
            `TeacherCheckHook`. A student class without a teacher's gets no class target. None: both
            have the same classes. A teacher that takes phrases (Grounding DINO) is prompted with
            the training data's names, after renaming.
        teacher_pass: `autocast`, `channels_last` and `compile` of the teacher, see `TeacherPass`.
        unlabelled: `score_threshold` and `task_loss` of images without labels, see `PseudoLabels`.

    Raises:
        ValueError: teacher and student cannot be compared (classes, image channels), the
            class map does not fit, no injection rule serves the pair, or a teacher config came
            without a checkpoint.
        CheckpointError: the checkpoint does not fit the teacher.
    """

    def __init__(
        self,
        architecture: Union[str, Config, BaseModel],
        teacher: Union[str, Config, BaseModel],
        distiller: Config,
        teacher_ckpt: Optional[str] = None,
        data_preprocessor: Optional[Union[Config, nn.Module]] = None,
        init_cfg: Optional[Config] = None,
        class_map: ClassMapConfig = None,
        teacher_pass: Optional[Config] = None,
        unlabelled: Optional[Config] = None,
    ) -> None:
        if not _is_our_distiller(distiller):
            raise ValueError(
                f"distiller must be dict(type='DETRDistiller', ...), got {distiller!r}"
            )
        if architecture is teacher:
            raise ValueError('architecture and teacher are the same object: build each of them')
        with scope_of():
            if not isinstance(architecture, BaseModel):
                architecture = build_detector(architecture, 'architecture')
            if isinstance(data_preprocessor, dict):
                data_preprocessor = MODELS.build(data_preprocessor)
        # From here on no random number is taken from the student, so that it starts as alone.
        with torch.random.fork_rng(devices=[]):
            with scope_of():
                teacher, meta = build_teacher(teacher, teacher_ckpt)
            with DefaultScope.overwrite_default_scope('mmrazor'):  # its recorders and losses
                super().__init__(
                    architecture=architecture,
                    teacher=teacher,
                    distiller=distiller,
                    data_preprocessor=data_preprocessor,
                    init_cfg=init_cfg,
                )
            self.teacher_meta = meta
            self.student_adapter = build_adapter(self.student, 'student')
            self.teacher_adapter = build_adapter(self.teacher, 'teacher')
            if getattr(self.student_adapter, 'assigner', None) is None:
                raise ValueError(
                    'architecture.train_cfg is missing: the student cannot be trained without '
                    'train_cfg.assigner'
                )
            check_teacher(self.student_adapter, self.teacher_adapter, class_map is None)
            with scope_of():  # a user's own injection rule
                self.distiller.prepare(self.student_adapter, self.teacher_adapter)
            renormalise = renormalisation(self.data_preprocessor, self.teacher.data_preprocessor)
            # after the strides were probed, which would compile for the probe's size
            self.teacher_pass = TeacherPass(
                self.teacher_adapter, renormalise, **(teacher_pass or {})
            )
            self.pseudo_labels = PseudoLabels(**(unlabelled or {}))
        self.teacher.eval()
        if not COMPILED:
            print_log('matching: SciPy; with Numba (pip install numba) it is faster', 'current')
        if isinstance(class_map, str) and class_map != 'auto':
            raise ValueError(
                "class_map must be 'auto', {student name: teacher name} or a list of labels, got "
                f'{class_map!r}'
            )
        self.class_map_config = class_map
        self.class_map: Optional[ClassMap] = None
        if not (
            class_map is None or isinstance(class_map, (str, dict)) or self.teacher_adapter.prompted
        ):
            self.set_class_map(class_map)
        self._built = True

    def set_class_map(self, label_map: Sequence[int]) -> None:
        """Give the teacher's label, or -1, of each student class; see `make_class_map`."""
        sizes = self.student_adapter.num_classes, self.teacher_adapter.num_classes
        self.class_map = make_class_map(label_map, *sizes)

    def loss(self, batch_inputs: Tensor, data_samples: List[Any]) -> Dict[str, Tensor]:
        """Compute the student's own losses, under their own names, and the distillation losses.

        Args:
            batch_inputs: (B, 3, H, W) preprocessed and padded.
            data_samples: B `DetDataSample`s with ground truth.
        """
        distilling = self.distiller.active and not self.distillation_stopped
        unlabelled = any(map(is_unlabelled, data_samples))
        statistics = {}
        if distilling or unlabelled:
            with self.distiller.recording('teacher'):
                teacher = self.teacher_pass(batch_inputs, data_samples)
        if unlabelled:
            data_samples, num_boxes = self.pseudo_labels(
                self.teacher_adapter, teacher, data_samples, self._class_map_on(batch_inputs.device)
            )
            statistics['unlabelled.boxes'] = batch_inputs.new_tensor(num_boxes)
        with self.distiller.recording('student'):
            student = self.student_adapter.forward_pass(batch_inputs, data_samples)
            pair = self._pair(student, teacher, data_samples) if distilling else None
            started = {} if pair is None else self.distiller.start(pair)
            losses = self._task_loss(student, data_samples)
        return {**losses, **self.distiller.compute_distill_losses(pair, started), **statistics}

    def predict_teacher(self, data: Dict[str, Any]) -> List[Any]:
        """Predict with the teacher, in the student's labels, to score it like the student.

        Args:
            data: a batch as a validation data loader gives it.

        Returns:
            `DetDataSample`s with `pred_instances`.

        Raises:
            RuntimeError: the class map needs names and has none yet.
        """
        data = self.data_preprocessor(data, False)
        return self.teacher_pass.predict(
            data['inputs'], data['data_samples'], self._class_map_on(data['inputs'].device)
        )

    def _task_loss(self, student: ForwardPass, data_samples: List[Any]) -> Dict[str, Tensor]:
        """Compute the student's own loss, on labelled images only if the config says so."""
        adapter = self.student_adapter
        labelled = [i for i, sample in enumerate(data_samples) if not is_unlabelled(sample)]
        if self.pseudo_labels.task_loss or len(labelled) == len(data_samples):
            return adapter.task_loss(student, data_samples)
        if labelled:
            return adapter.task_loss(student, data_samples, labelled)
        # zero, but with the collectives and the gradients that the other ranks of DDP wait for
        nothing = [without_objects(sample) for sample in data_samples]
        losses = adapter.task_loss(student, nothing, list(range(len(nothing))))
        return {name: 0 * value for name, value in losses.items()}

    def _pair(
        self, student: ForwardPass, teacher: ForwardPass, data_samples: List[Any]
    ) -> DistillPair:
        """Pair both forward passes over a batch, with the class map and injections."""
        num_stages = (forward.outputs.logits.shape[0] for forward in (student, teacher))
        return DistillPair(
            self.student_adapter,
            self.teacher_adapter,
            student,
            teacher,
            data_samples,
            self._class_map_on(student.outputs.logits.device),
            self.distiller.active_injections(),
            self.distiller.assigned_stages(*num_stages),
            self.teacher_pass.context,
        )

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        """Take weights of a plain student too, under the names that MMDetection gives them."""
        own = {name: value for name, value in state_dict.items() if name.startswith(prefix)}
        if own and not any(name.startswith(f'{prefix}architecture.') for name in own):
            for name, value in own.items():
                del state_dict[name]
                state_dict[f'{prefix}architecture.{name[len(prefix) :]}'] = value
            print_log('the student starts from the weights of a plain detector', 'current')
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getattr__(self, name: str) -> Any:
        """Give hooks the attributes of a detector (`backbone`, `bbox_head` ...), the student's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            student = self.__dict__.get('_modules', {}).get('architecture')
            if student is None or name.startswith('_'):
                raise
            return getattr(student, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep the teacher out of the module tree; once built, write where `__getattr__` reads."""
        if name == 'teacher':
            self.__dict__[name] = value
        elif '_built' in self.__dict__ and self._is_of_student(name):
            setattr(self.student, name, value)
        else:
            super().__setattr__(name, value)

    def _is_of_student(self, name: str) -> bool:
        own = [self.__dict__, self._parameters, self._buffers, self._modules, dir(type(self))]
        is_own = name.startswith('_') or any(name in names for names in own)
        return not is_own and hasattr(self.student, name)

    def _class_map_on(self, device: torch.device) -> Optional[ClassMap]:
        """The class map; once it is on the device, it stays there."""
        mapped = self.class_map_config is not None and not self.teacher_adapter.prompted
        if mapped and self.class_map is None:
            raise RuntimeError(
                'class_map needs class names: put dict(type="TeacherCheckHook") into custom_hooks, '
                'or give class_map as a list of labels'
            )
        self.class_map = None if self.class_map is None else self.class_map.to(device)
        return self.class_map

    def train(self, mode: bool = True) -> 'DETRDistill':
        """Set the mode of student and distiller; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> 'DETRDistill':
        super()._apply(*args, **kwargs)
        self.teacher._apply(*args, **kwargs)
        return self

    def __deepcopy__(self, memo: Dict[int, Any]) -> 'DETRDistill':
        """Copy (for an EMA) all but the frozen teacher, which is shared."""
        copied = type(self).__new__(type(self))
        memo.update({id(self): copied, id(self.teacher): self.teacher})
        copied.__dict__.update(deepcopy(self.__dict__, memo))
        return copied


def _is_our_distiller(distiller: Any) -> bool:
    found = class_of('MODELS', distiller) if isinstance(distiller, dict) else None
    return isinstance(found, type) and issubclass(found, DETRDistiller)

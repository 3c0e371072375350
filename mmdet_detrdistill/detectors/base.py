"""Run a DETR-like detector stage by stage; nothing is patched and no hook is set."""

import inspect
from copy import copy
from functools import cached_property, partial
from typing import Any, ClassVar, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmdet.models.losses import GIoULoss, QualityFocalLoss
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..functional.assign_kd import IoU, SetCriterion, giou_loss
from ..functional.boxes import xyxy_to_cxcywh
from ..functional.transfer import to_device
from .gt_assignment import assign_batch, assign_one_by_one, is_row_by_row
from .levels import PROBE_SIZE, eval_mode, num_channels
from .non_finite import name_non_finite_image
from .outputs import DecoderOutputs, EncoderState, ForwardPass

STAGES = (
    'extract_feat',
    'pre_transformer',
    'forward_encoder',
    'pre_decoder',
    'forward_decoder',
    'bbox_head.forward',
    'bbox_head.loss_by_feat',
)
QUERY_KINDS = {
    'DETR': 'position',
    'ConditionalDETR': 'conditional',
    'DABDETR': 'anchor',
    'DeformableDETR': 'point',
    'DINO': 'box',
    'DDQDETR': 'distinct',
    'RTDETR': 'memory',
    'SparseRCNN': 'region',
}


class DetectorAdapter:
    """Run the forward pass of a detector that follows MMDetection's `DetectionTransformer`.

    `encode`, `decode` and `task_loss` in a row equal `detector.loss` bit for bit. DETR,
    Conditional, DAB, Deformable (all three forms) and DINO need nothing else; a family that departs
    overrides the attribute or the method where it does.

    Args:
        detector: a built MMDetection detector, teacher or student.
        side: 'student' or 'teacher', for messages.

    Raises:
        TypeError: the detector lacks a stage, or can only be a teacher; the message says which.
    """

    #: methods of the detector, and of its parts, that the adapter calls
    stages: ClassVar[Tuple[str, ...]] = STAGES
    #: attribute of the detector that holds the head of the decoder's queries
    head_name: ClassVar[str] = 'bbox_head'
    #: why such a detector cannot be a student; '' when it can
    teacher_only: ClassVar[str] = ''
    #: whether its classes are phrases, given to `set_phrases` before the first forward pass
    prompted: ClassVar[bool] = False
    #: why its decoder takes no other queries; '' when it does
    own_queries_only: ClassVar[str] = ''
    #: whether a mask on the decoder's self-attention keeps sets of queries apart
    separable: ClassVar[bool] = True

    def __init__(self, detector: nn.Module, side: str = 'student') -> None:
        if side == 'student' and self.teacher_only:
            raise TypeError(
                f'a {type(detector).__name__} can only be a teacher: {self.teacher_only}'
            )
        missing = [name for name in self.stages if not _has(detector, name)]
        if missing:
            raise TypeError(
                f'{side} {type(detector).__name__} is not a DETR-like detector: it has no '
                f'{", ".join(missing)}. Register an adapter for it with '
                f"@register_adapter('{type(detector).__name__}')."
            )
        self.detector: Any = detector  # a class of MMDetection, which is untyped
        self.side = side

    @property
    def head(self) -> Any:
        return getattr(self.detector, self.head_name)

    @property
    def activation(self) -> str:
        """The activation of the head's class logits, 'sigmoid' or 'softmax'."""
        return 'sigmoid' if self.head.loss_cls.use_sigmoid else 'softmax'

    @property
    def query_kind(self) -> str:
        """The kind of the decoder's queries; queries of one kind can be used by another detector.

        'position' (DETR), 'conditional', 'anchor' (DAB), 'point' (one-stage Deformable),
        'proposal' (two-stage Deformable), 'box' (DINO), 'distinct' (DDQ), 'memory' (RT-DETR),
        'region' (Sparse R-CNN); for others the name of the class.
        """
        names = [cls.__name__ for cls in type(self.detector).__mro__]
        kind = next((QUERY_KINDS[name] for name in names if name in QUERY_KINDS), names[0])
        two_stage = getattr(self.detector, 'as_two_stage', False)
        return 'proposal' if kind == 'point' and two_stage else kind

    @property
    def num_classes(self) -> int:
        return int(self.head.num_classes)

    @property
    def num_queries(self) -> int:
        return int(self.detector.num_queries)

    @property
    def num_layers(self) -> Tuple[int, int]:
        """The numbers of encoder and decoder layers."""
        return int(self.detector.encoder.num_layers), int(self.detector.decoder.num_layers)

    @property
    def embed_dims(self) -> int:
        """The width D of features, memory and queries."""
        return int(self.detector.embed_dims)

    def set_phrases(self, phrases: Sequence[str]) -> None:
        """Name the classes of a `prompted` detector.

        Args:
            phrases: one per class, in label order.

        Raises:
            ValueError: the detector cannot tell these classes, or has classes of its own.
        """
        raise ValueError(f'{self.side} {type(self.detector).__name__} takes no class names')

    def forward_pass(self, images: Tensor, samples: List[Any]) -> ForwardPass:
        """Run all stages up to the head's outputs for images (B, 3, H, W)."""
        state = self.encode(images, samples)
        return ForwardPass(state, self.decode(state))

    def encode(self, images: Tensor, samples: List[Any]) -> EncoderState:
        """Run backbone, neck and encoder, and make the queries.

        Args:
            images: (B, 3, H, W) preprocessed and padded.
            samples: B `DetDataSample`s.
        """
        detector = self.detector
        features, encoder_inputs, decoder_inputs = self.pre_transformer(images, samples)
        self.check_room(features, images.shape[-2:])
        encoder_inputs.update(self.more_encoder_inputs(images))
        encoder_outputs = detector.forward_encoder(**encoder_inputs)
        extra = {}
        if _takes(type(detector), 'pre_decoder', 'batch_data_samples'):
            extra['batch_data_samples'] = samples
        queries, head_inputs = detector.pre_decoder(**encoder_outputs, **extra)
        return EncoderState(
            features=features,
            memory=encoder_outputs['memory'],
            padding_mask=encoder_inputs.get('feat_mask'),
            decoder_inputs={**decoder_inputs, **queries},
            head_inputs=head_inputs,
        )

    def pre_transformer(
        self, images: Tensor, samples: List[Any]
    ) -> Tuple[Tuple[Tensor, ...], Dict[str, Any], Dict[str, Any]]:
        """Make the feature maps that enter the transformer, and its inputs.

        Returns:
            Maps (B, D, H, W), keyword arguments of `forward_encoder`, some of `forward_decoder`.
        """
        features = self.detector.extract_feat(images)
        if 'pre_transformer' not in self.stages:
            return tuple(features), {}, {}
        encoder_inputs, decoder_inputs = self.detector.pre_transformer(features, samples)
        if 'spatial_shapes' not in encoder_inputs:  # single-scale detectors read the last map
            features = features[-1:]
        return tuple(features), encoder_inputs, decoder_inputs

    @cached_property
    def strides(self) -> Tuple[int, ...]:
        """Measure the stride in pixels of each feature level, once, on a black image.

        Raises:
            ValueError: the detector refuses such an image.
        """
        try:
            features = self.probe(PROBE_SIZE)
        except Exception as error:  # anything a backbone may raise
            raise ValueError(
                f'the strides of the {self.side} {type(self.detector).__name__} cannot be measured '
                f'on an image of {PROBE_SIZE} pixels ({error}): give it an adapter '
                'with `strides`'
            ) from error
        return tuple(round(PROBE_SIZE[1] / feature.shape[-1]) for feature in features)

    def probe(self, size: Tuple[int, int]) -> Tuple[Tensor, ...]:
        """Make the feature maps of one black image of (H, W) pixels, in eval mode."""
        weight = next(self.detector.parameters())
        images = weight.new_zeros(1, num_channels(self.detector), *size)
        sample = DetDataSample(metainfo=dict(img_shape=size, batch_input_shape=size))
        with eval_mode(self.detector):
            features, _, _ = self.pre_transformer(images, [sample])
        return features

    def check_room(self, features: Sequence[Tensor], size: Sequence[int]) -> None:
        """Refuse images in which a two-stage detector cannot pick its queries.

        Args:
            features: maps (B, D, H, W), whose positions the queries are picked among.
            size: (H, W) of the images, for the message.

        Raises:
            ValueError: fewer positions than queries.
        """
        count = sum(feature.shape[-2] * feature.shape[-1] for feature in features)
        if getattr(self.detector, 'as_two_stage', False) and count < self.num_queries:
            raise ValueError(
                f'images of {tuple(size)} pixels give {count} feature pixels, the {self.side} '
                f'{type(self.detector).__name__} picks {self.num_queries} queries among them: use '
                'larger images (check: --size for synthetic ones) or fewer queries'
            )

    def more_encoder_inputs(self, images: Tensor) -> Dict[str, Any]:
        """Return keyword arguments of `forward_encoder` besides those of `pre_transformer`."""
        return {}

    def decode(
        self, state: EncoderState, queries: Optional[Dict[str, Tensor]] = None
    ) -> DecoderOutputs:
        """Run decoder and head, on the detector's own queries or on given ones.

        Args:
            state: from `encode`.
            queries: entries of the decoder's inputs to replace (`query`, `query_pos`,
                `reference_points`, each (B, N, .)); the denoising group is left out then.
        """
        inputs = state.decoder_inputs
        num_denoising = (state.head_inputs.get('dn_meta') or {}).get('num_denoising_queries', 0)
        if queries is not None:
            inputs = {**inputs, **queries}
            if 'dn_mask' in inputs:
                inputs['dn_mask'] = None
            num_denoising = 0
        decoded, predicted = self.run_decoder(inputs, state)
        return self._outputs(decoded, predicted, slice(num_denoising, None))

    def decode_sets(
        self, state: EncoderState, sets: Sequence[Dict[str, Tensor]]
    ) -> List[DecoderOutputs]:
        """Run decoder and head once, on sets of given queries that do not see each other.

        Args:
            state: from `encode`.
            sets: each as `queries` of `decode`, with the same entries.

        Returns:
            What `decode` gives for each set alone, up to rounding and to dropout.
        """
        if len(sets) < 2 or not self.separable:
            return [self.decode(state, queries) for queries in sets]
        counts = [queries['query'].shape[1] for queries in sets]
        owners = to_device(np.repeat(np.arange(len(sets)), counts), state.memory.device)
        joint = {name: torch.cat([queries[name] for queries in sets], dim=1) for name in sets[0]}
        apart = self.masked(owners.unsqueeze(1) != owners)
        return apart.decode(state, joint).split(counts)

    def masked(self, mask: Tensor) -> 'DetectorAdapter':
        """Return an adapter whose decoder masks its self-attention; the detector stays as it is.

        Args:
            mask: (N, N) bool, True = query i (row) does not see query j.
        """
        adapter, detector, decoder = copy(self), copy(self.detector), copy(self.detector.decoder)
        layers = [masked_attention(layer, 'self_attn', mask) for layer in decoder.layers]
        # found before the module's own parts, which the copies share
        vars(decoder)['layers'], vars(detector)['decoder'] = layers, decoder
        adapter.detector = detector
        return adapter

    def run_decoder(
        self, inputs: Dict[str, Any], state: EncoderState
    ) -> Tuple[Dict[str, Any], Tuple[Tensor, ...]]:
        """Run decoder and head on `inputs`, the keyword arguments of `forward_decoder`.

        Returns:
            The decoder's outputs, with `hidden_states` (L, B, N, D), and the head's: class logits
            (L, B, N, C) and boxes (L, B, N, 4) first.
        """
        decoded = self.detector.forward_decoder(**inputs)
        return decoded, self.head(**decoded)

    def _outputs(
        self,
        decoded: Dict[str, Any],
        predicted: Tuple[Tensor, ...],
        kept: slice,
        query_mask: Optional[Tensor] = None,
    ) -> DecoderOutputs:
        logits, boxes = (tensor[:, :, kept] for tensor in predicted[:2])
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return DecoderOutputs(
            hidden_states=decoded['hidden_states'][:, :, kept],
            logits=logits.to(dtype),
            boxes=boxes.to(dtype),
            query_mask=query_mask,
            decoder_outputs=decoded,
            head_outputs=predicted,
        )

    def task_loss(
        self, forward: ForwardPass, samples: List[Any], images: Optional[List[int]] = None
    ) -> Dict[str, Tensor]:
        """Compute the detector's own losses, named as `detector.loss` names them.

        Args:
            forward: over the batch.
            samples: B `DetDataSample`s with ground truth.
            images: indices of the images that count; None = all.
        """
        inputs = forward.state.head_inputs
        arguments: List[Any] = list(forward.outputs.head_outputs)
        encoder: List[Optional[Tensor]] = []
        if 'enc_outputs_class' in inputs:
            encoder = [inputs['enc_outputs_class'], inputs['enc_outputs_coord']]
        counted = samples
        if images is not None:
            arguments = [tensor[:, images] for tensor in arguments]
            encoder = [None if tensor is None else tensor[images] for tensor in encoder]
            counted = [samples[image] for image in images]
        arguments += encoder
        arguments += [[s.gt_instances for s in counted], [s.metainfo for s in counted]]
        if 'dn_meta' in inputs:
            arguments.append(inputs['dn_meta'])
        losses: Dict[str, Tensor] = self._explained(
            forward.outputs, samples, self.head.loss_by_feat, *arguments
        )
        return losses

    def check_whole_batch(self, images: Optional[List[int]]) -> None:
        """Raise ValueError where only some images are to count in a loss that reads them all."""
        if images is not None:
            raise ValueError(
                f'the loss of a {type(self.detector).__name__} reads the whole batch: '
                'unlabelled.task_loss=False is not available'
            )

    def predict(self, images: Tensor, samples: List[Any]) -> List[Any]:
        """Predict with the detector's own post-processing, into the samples."""
        predicted: List[Any] = self.detector.predict(images, samples)
        return predicted

    @property
    def test_cfg(self) -> Dict[str, Any]:
        """The options of the detector's post-processing."""
        return dict(self.head.test_cfg or {})

    def check_num_predictions(self) -> None:
        """Raise ValueError when `test_cfg` asks for more predictions than the queries make."""
        wanted = self.test_cfg.get('max_per_img', 0)
        found = self.num_queries * (self.num_classes if self.activation == 'sigmoid' else 1)
        if wanted > found:
            raise ValueError(
                f'{self.side}: test_cfg.max_per_img is {wanted}, but {self.num_queries} '
                f'queries give {found} predictions: set it to {found} or less'
            )

    def post_process(self, forward: ForwardPass, samples: List[Any]) -> List[InstanceData]:
        """Post-process the last stage's predictions as the detector's own `predict` does.

        Args:
            forward: over the batch, in eval mode.
            samples: B `DetDataSample`s.

        Returns:
            Per image `bboxes` (M, 4) xyxy in pixels of the resized image, `scores` (M,) and
            `labels` (M,).
        """
        self.check_num_predictions()
        metas = [sample.metainfo for sample in samples]
        found: List[InstanceData] = self.head.predict_by_feat(
            *forward.outputs.head_outputs, batch_img_metas=metas, rescale=False
        )
        return found

    @torch.no_grad()
    def assign(
        self,
        outputs: DecoderOutputs,
        samples: List[Any],
        label_map: Optional[Tensor] = None,
        stages: Optional[Sequence[int]] = None,
    ) -> Tensor:
        """Assign queries to the ground truth by the detector's own Hungarian assignment.

        Args:
            outputs: its predictions.
            samples: B `DetDataSample`s with ground truth.
            label_map: (K,) int64, this detector's label of each label of the ground truth, -1 =
                unknown to it: such objects are given to no query. None: the same labels.
            stages: the stages to assign; None: all.

        Returns:
            (L, B, N) int64: index of the object, -1 for background, -2 where `query_mask` is off
            and in stages that were not asked for.

        Raises:
            AttributeError: the head was built without `train_cfg.assigner`.
            ValueError: NaN or Inf in the predictions, naming stage and image.
        """
        num_stages = outputs.logits.shape[0]
        stages = range(num_stages) if stages is None else stages
        if label_map is not None:
            label_map = label_map.to(outputs.logits.device)
        assigner = self.assigner
        assign = assign_batch if is_row_by_row(assigner) else assign_one_by_one
        found: Tensor = self._explained(
            outputs, samples, assign, assigner, outputs, samples, label_map, stages
        )
        if list(stages) == list(range(num_stages)):
            return found
        assignment = found.new_full(outputs.logits.shape[:3], -2)
        for stage, value in zip(stages, found):
            assignment[stage] = value
        return assignment

    @property
    def assigner(self) -> Any:
        """MMDetection's assigner of predictions, class logits and boxes, to the ground truth.

        Raises:
            AttributeError: the head was built without one.
        """
        if not hasattr(self.head, 'assigner'):
            raise AttributeError(
                f'{self.side}: {self.head_name} has no assigner; give it train_cfg.assigner'
            )
        return self.head.assigner

    def criterion(self) -> SetCriterion:
        """The head's own three loss terms per query, for `functional.assign_kd`."""
        head = self.head

        def per_query(loss: nn.Module, *inputs: Any) -> Tensor:
            values: Tensor = loss(*inputs, reduction_override='none')
            return values if values.dim() == 1 else values.flatten(1).sum(1)

        def classify(logits: Tensor, labels: Tensor, iou: IoU) -> Tensor:
            return per_query(head.loss_cls, logits, self.class_target(labels, iou))

        overlap = partial(per_query, head.loss_iou)
        if type(head.loss_iou) is GIoULoss:  # MMDetection's uploads its epsilon
            overlap = partial(giou_loss, weight=head.loss_iou.loss_weight)
        return SetCriterion(
            cls=classify,
            bbox=partial(per_query, head.loss_bbox),
            iou=overlap,
            background_weight=float(getattr(head, 'bg_cls_weight', 0)),  # regions have none
        )

    def class_target(self, labels: Tensor, iou: IoU) -> Any:
        """The target of the head's classification loss.

        Args:
            labels: (n,) int64, `num_classes` = background.
            iou: makes (n,), of the predicted box with its object's, 0 for background.
        """
        return (labels, iou()) if isinstance(self.head.loss_cls, QualityFocalLoss) else labels

    def _explained(self, outputs: DecoderOutputs, samples: List[Any], call: Any, *args: Any) -> Any:
        """Run `call`; report a failed matching with detector, stage and image."""
        try:
            return call(*args)
        except ValueError as error:
            found = name_non_finite_image(self.side, outputs, samples)
            if found is None:
                raise
            raise ValueError(found) from error


def masked_attention(module: nn.Module, name: str, mask: Tensor) -> nn.Module:
    """Return a shallow copy of a module whose attention of this name gets a mask (N, N)."""
    found, attention = copy(module), getattr(module, name)
    vars(found).pop('forward', None)  # activation checkpointing's would call the original
    vars(found)[name] = lambda *args, **kwargs: attention(*args, **{**kwargs, 'attn_mask': mask})
    return found


def _has(detector: nn.Module, method: str) -> bool:
    """Tell whether a detector has a method, or one of a part, 'part.method'."""
    found: Any = detector
    for name in method.split('.'):
        found = getattr(found, name, None)
    return callable(found)


def _takes(cls: type, method: str, argument: str) -> bool:
    """Tell whether a method has an argument, also by `**kwargs` that a parent's method names."""
    for owner in cls.__mro__:
        if method in vars(owner):
            parameters = inspect.signature(vars(owner)[method]).parameters
            if argument in parameters:
                return True
            if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
                return False
    return False


def ground_truth(samples: List[Any]) -> Tuple[List[Tensor], List[Tensor], Tensor]:
    """Labels (M_b,), boxes (M_b, 4) cxcywh in [0, 1] per image, and image sizes (B, 2), (h, w)."""
    objects = [sample.gt_instances for sample in samples]
    sizes = [sample.metainfo['img_shape'][:2] for sample in samples]
    counts = [len(found.labels) for found in objects]
    boxes_xyxy = torch.cat([found.bboxes for found in objects])
    # one upload: what each object's box is multiplied by, then the sizes
    scales = [(1 / w, 1 / h) * 2 for (h, w), count in zip(sizes, counts) for _ in range(count)]
    values = np.array(scales + [(h, w, h, w) for h, w in sizes], dtype=np.float64)
    table = to_device(values, boxes_xyxy.device).to(boxes_xyxy.dtype)
    boxes = xyxy_to_cxcywh(boxes_xyxy * table[: sum(counts)]).split(counts)
    return [found.labels for found in objects], list(boxes), table[sum(counts) :, :2]

"""What a `DETRDistill` must log on a batch, by the slow reference.

Of the package only the two passes over the detectors and the assigner are taken; projections, phi,
level pairs, padding and class maps are written out here.
"""

import copy
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors import DecoderOutputs, ForwardPass
from tests.reference import (
    assign_kd_reference,
    feature_kd_reference,
    logits_kd_reference,
    query_quality_reference,
)
from tests.reference_aligned import aligned_kd_reference

#: per variant, the entries of the teacher's decoder inputs that a student of the family receives
INJECTED = {
    'detr': ('query_pos',),
    'dab': ('query_pos',),
    'deformable': ('query', 'query_pos', 'reference_points'),
    'ddq': ('query', 'reference_points'),
}
RELEASED_LOGITS = dict(matching='joint', negative_cls=True)
RELEASED_FEATURE = dict(similarity='cosine', mask='summed')


def logged(model: DETRDistill, images: Tensor, samples: List[Any]) -> Dict[str, Tensor]:
    """The distillation terms of one training pass; the seed is that of `expected_terms`."""
    torch.manual_seed(0)
    losses = model.loss(images, samples)
    return {name: value for name, value in losses.items() if '_kd' in name}


@torch.no_grad()
def expected_terms(
    model: DETRDistill,
    images: Tensor,
    samples: List[Any],
    *,
    levels: Sequence[Tuple[int, int]],
    variant: str = '',
    preset: str = 'paper',
    pairing: str = 'group',
    label_map: Optional[Sequence[int]] = None,
) -> Dict[str, Tensor]:
    """Terms by name of the model's losses.

    Args:
        levels: pairs (student level, teacher level) of equal stride.
        variant: of student and teacher, for the losses on the teacher's queries.
        preset: of all losses; `pairing`: of all but the feature loss.
        label_map: the teacher's label of each student label, -1 = none.
    """
    torch.manual_seed(0)
    teacher = model.teacher_adapter.forward_pass(images, samples)
    student = model.student_adapter.forward_pass(images, samples)
    case = Case(
        model, images, samples, student, teacher, levels, variant, preset, pairing, label_map
    )
    terms = {}
    for name in model.distiller.pair_losses:
        stem = name[len('loss_') :]
        for term, value in getattr(case, stem)().items():
            key = f'{stem}.{term}' if term == 'entropy' else f'{name}.{term}'
            terms[key.rstrip('.')] = torch.as_tensor(value)
    return terms


@dataclass
class Case:
    """Both passes and the options; one method per loss."""

    model: DETRDistill
    images: Tensor
    samples: List[Any]
    student: ForwardPass
    teacher: ForwardPass
    levels: Sequence[Tuple[int, int]]
    variant: str
    preset: str
    pairing: str
    label_map: Optional[Sequence[int]]

    def __post_init__(self) -> None:
        self.paper = self.preset == 'paper'
        self.shapes = [sample.metainfo['img_shape'] for sample in self.samples]
        self.labels = [sample.gt_instances.labels for sample in self.samples]
        self.gt_boxes = [
            _relative(sample.gt_instances.bboxes, shape)
            for sample, shape in zip(self.samples, self.shapes)
        ]
        self.activations = dict(
            student_activation=_activation(self.model.student),
            teacher_activation=_activation(self.model.teacher),
        )
        self.assignment = self._teacher_assignment()

    def logits_kd(self) -> Dict[str, Tensor]:
        own, other = self.student.outputs, self.teacher.outputs
        return logits_kd_reference(
            self._own_classes(own.logits),
            own.boxes,
            self._shared_classes(other.logits),
            other.boxes,
            self.assignment >= 0,
            student_mask=own.query_mask,
            teacher_mask=other.query_mask,
            pairing=self.pairing,
            **self.activations,
            **({} if self.paper else RELEASED_LOGITS),
        )

    def feature_kd(self) -> Dict[str, Tensor]:
        outputs = self.teacher.outputs
        picked = slice(-1, None) if self.paper else slice(None)
        probs = _foreground(outputs.logits[picked], self.activations['teacher_activation'])
        if self.label_map is not None:
            probs = probs[..., [label for label in self.label_map if label >= 0]]
        quality = query_quality_reference(
            probs,
            outputs.boxes[picked],
            self.gt_boxes,
            self.assignment[picked],
            quality='matched_iou' if self.paper else 'max_iou',
        )
        if outputs.query_mask is not None:
            quality = quality * outputs.query_mask[picked]
        own, other = (
            _maps(forward.state.memory, forward.state.features)
            if self.paper
            else forward.state.features
            for forward in (self.student, self.teacher)
        )
        teacher_maps = [other[level] for _, level in self.levels]
        value = feature_kd_reference(
            [_phi(self.model, own[level]) for level, _ in self.levels],
            teacher_maps,
            outputs.hidden_states[picked],
            quality,
            _valid_masks(self.images, self.shapes, teacher_maps) if self.paper else None,
            **({} if self.paper else RELEASED_FEATURE),
        )
        return {'': value}

    def assign_kd(self) -> Dict[str, Tensor]:
        logits, boxes, mask = self._injected('loss_assign_kd', not self.paper)
        followed = self.assignment
        if not self.paper:
            injected = DecoderOutputs(None, logits, boxes, mask, {}, ())
            followed = self.model.student_adapter.assign(injected, self.samples)
        head, labels = self.model.student.bbox_head, self.labels
        if self.paper and self.label_map is not None:  # the others have no channel
            logits, kept = self._own_classes(logits), [i >= 0 for i in self.label_map]
            labels = [torch.tensor([sum(kept[:i]) for i in found], dtype=int) for found in labels]
        return assign_kd_reference(
            logits,
            boxes,
            followed,
            labels,
            self.gt_boxes,
            activation=self.activations['student_activation'],
            background_weight=float(head.bg_cls_weight),
            cls_weight=head.loss_cls.loss_weight,
            image_sizes=torch.tensor(self.shapes),
            query_mask=mask,
            pairing=self.pairing,
        )

    def aligned_kd(self) -> Dict[str, Tensor]:
        logits, boxes, mask = self._injected('loss_aligned_kd', False)
        outputs = self.teacher.outputs
        return aligned_kd_reference(
            self._own_classes(logits),
            boxes,
            self._shared_classes(outputs.logits),
            outputs.boxes,
            self.assignment >= 0,
            student_mask=mask,
            teacher_mask=outputs.query_mask,
            pairing=self.pairing,
            **self.activations,
        )

    def _teacher_assignment(self) -> Tensor:
        """With a label map: of the objects that the teacher knows, under its own labels."""
        adapter, outputs = self.model.teacher_adapter, self.teacher.outputs
        if self.label_map is None:
            return adapter.assign(outputs, self.samples)
        known, samples = [], []
        for sample, labels in zip(self.samples, self.labels):
            rows = [i for i, label in enumerate(labels.tolist()) if self.label_map[label] >= 0]
            known.append(rows)
            samples.append(copy.copy(sample))
            samples[-1].gt_instances = InstanceData(
                bboxes=sample.gt_instances.bboxes[rows],
                labels=torch.tensor([self.label_map[labels[i]] for i in rows], dtype=torch.long),
            )
        assignment = adapter.assign(outputs, samples)
        for image, rows in enumerate(known):
            found = assignment[:, image]
            assignment[:, image] = found.clone().apply_(lambda i, r=rows: r[i] if i >= 0 else i)
        return assignment

    def _shared_classes(self, logits: Tensor) -> Tensor:
        """Teacher logits of the classes that the student has, in its order.

        Of a softmax: logits of the picked probabilities, with all others as background.
        """
        if self.label_map is None:
            return logits
        picked = [label for label in self.label_map if label >= 0]
        if self.activations['teacher_activation'] == 'sigmoid':
            return logits[..., picked]
        probs = logits.softmax(-1)[..., picked]
        return torch.cat((probs, 1 - probs.sum(-1, keepdim=True)), -1).log()

    def _own_classes(self, logits: Tensor) -> Tensor:
        """Student logits of the classes that the teacher has, and background."""
        if self.label_map is None:
            return logits
        rows = [own for own, label in enumerate(self.label_map) if label >= 0]
        if self.activations['student_activation'] == 'softmax':
            rows.append(len(self.label_map))
        return logits[..., rows]

    def _injected(self, loss: str, own_references: bool) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
        """Logits, boxes and mask of the student on the teacher's queries."""
        (rule,) = self.model.distiller.pair_losses[loss].rules.values()
        projections = rule.projections
        own, other = self.student.state.decoder_inputs, self.teacher.state.decoder_inputs
        queries = {}
        for name in INJECTED[self.variant]:
            queries[name] = other[name]
            if name in projections:
                layer = projections[name]
                queries[name] = other[name] @ layer.weight.T + layer.bias
        if 'query' not in queries:  # content starts at zero in these families
            images, count = other['query'].shape[:2]
            queries['query'] = own['query'].new_zeros(images, count, own['query'].shape[-1])
        if self.variant == 'deformable' and own_references:
            layer = self.model.student.reference_points_fc
            points = queries['query_pos'] @ layer.weight.T + layer.bias
            queries['reference_points'] = points.sigmoid()
        if self.variant == 'ddq':  # keeps state between its stages
            outputs = self.model.student_adapter.decode(self.student.state, queries)
            return outputs.logits, outputs.boxes, outputs.query_mask
        decoded = self.model.student.forward_decoder(**{**own, **queries})
        logits, boxes = self.model.student.bbox_head(**decoded)
        return logits, boxes, None


def _activation(detector: torch.nn.Module) -> str:
    return 'sigmoid' if detector.bbox_head.loss_cls.use_sigmoid else 'softmax'


def _foreground(logits: Tensor, activation: str) -> Tensor:
    return logits.sigmoid() if activation == 'sigmoid' else logits.softmax(-1)[..., :-1]


def _relative(boxes_abs_xyxy: Tensor, shape: Tuple[int, int]) -> Tensor:
    x1, y1, x2, y2 = boxes_abs_xyxy.unbind(-1)
    height, width = shape
    centre_size = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
    return torch.stack((*centre_size, (x2 - x1) / width, (y2 - y1) / height), -1)


def _maps(memory: Tensor, features: Sequence[Tensor]) -> List[Tensor]:
    """Memory (B, P, D), levels one after the other, cut into maps as large as the features."""
    maps, start = [], 0
    for feature in features:
        height, width = feature.shape[-2:]
        part = memory[:, start : start + height * width]
        maps.append(part.transpose(1, 2).reshape(memory.shape[0], -1, height, width))
        start += height * width
    assert start == memory.shape[1]
    return maps


def _valid_masks(
    images: Tensor, shapes: Sequence[Tuple[int, int]], maps: Sequence[Tensor]
) -> List[Tensor]:
    """Per level (B, H, W): the pixel at its corner lies in the image, as MMDetection reads it."""
    inside = images.new_zeros(len(shapes), 1, *images.shape[-2:])
    for image, (height, width) in enumerate(shapes):
        inside[image, :, :height, :width] = 1
    return [F.interpolate(inside, size=m.shape[-2:])[:, 0].bool() for m in maps]


def _phi(model: DETRDistill, feature: Tensor) -> Tensor:
    phi = model.distiller.pair_losses['loss_feature_kd'].phi
    if isinstance(phi, torch.nn.Identity):
        return feature
    product = torch.einsum('oc,bchw->bohw', phi.weight[:, :, 0, 0], feature)
    return product + phi.bias[:, None, None]

"""Sparse R-CNN: learned proposals are queries, the stages of its region head are decoder stages."""

from copy import copy
from typing import Any, Dict, List, Optional, Tuple

import torch
from mmdet.structures.bbox import bbox2roi, bbox_cxcywh_to_xyxy
from mmengine.structures import InstanceData
from torch import Tensor

from ..functional.assign_kd import SetCriterion
from ..functional.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from .base import DetectorAdapter, masked_attention
from .gt_assignment import image_sizes
from .outputs import EncoderState, ForwardPass
from .registry import register_adapter


@register_adapter('SparseRCNN')
class SparseRCNNAdapter(DetectorAdapter):
    """There is no encoder: the neck's maps are the memory, unmasked, and proposals the queries."""

    stages = ('extract_feat', 'rpn_head.predict', 'roi_head.loss', 'roi_head.predict_bbox')

    @property
    def head(self) -> Any:
        return self.detector.roi_head.bbox_head[-1]

    @property
    def test_cfg(self) -> Dict[str, Any]:
        return dict(self.detector.roi_head.test_cfg or {})

    @property
    def assigner(self) -> Any:
        return next(reversed(self.detector.roi_head.bbox_assigner), None)

    @property
    def num_queries(self) -> int:
        return int(self.detector.rpn_head.num_proposals)

    @property
    def num_layers(self) -> Tuple[int, int]:
        return 0, int(self.detector.roi_head.num_stages)

    @property
    def embed_dims(self) -> int:
        return int(self.detector.roi_head.proposal_feature_channel)

    def encode(self, images: Tensor, samples: List[Any]) -> EncoderState:
        (features, _, _), proposals = self.pre_transformer(images, samples), self.detector.rpn_head
        learned = proposals.init_proposal_features.weight, proposals.init_proposal_bboxes.weight
        query, boxes = (weight.expand(len(images), -1, -1) for weight in learned)
        memory = torch.cat([feature.flatten(2) for feature in features], 2).transpose(1, 2)
        inputs = dict(query=query, reference_points=boxes)
        return EncoderState(features, memory, None, inputs, dict(samples=samples))

    def masked(self, mask: Tensor) -> DetectorAdapter:
        adapter, detector, head = copy(self), copy(self.detector), copy(self.detector.roi_head)
        stages = [masked_attention(stage, 'attention', mask) for stage in head.bbox_head]
        vars(head)['bbox_head'], vars(detector)['roi_head'] = stages, head
        adapter.detector = detector
        return adapter

    def run_decoder(
        self, inputs: Dict[str, Any], state: EncoderState
    ) -> Tuple[Dict[str, Any], Tuple[Tensor, ...]]:
        samples, objects = state.head_inputs['samples'], inputs['query']
        sizes = image_sizes(samples, objects).unsqueeze(1)
        boxes = list(bbox_cxcywh_to_xyxy(inputs['reference_points']) * sizes)
        metas, run_stage = [s.metainfo for s in samples], self.detector.roi_head._bbox_forward
        found: List[Dict[str, Any]] = []
        for stage in range(self.num_layers[1]):
            found.append(run_stage(stage, state.features, bbox2roi(boxes), objects, metas))
            objects, boxes = found[-1]['object_feats'], found[-1]['detached_proposals']
        hidden_states, logits, corners = (
            torch.stack([run[name] for run in found])
            for name in ('object_feats', 'cls_score', 'decoded_bboxes')
        )
        predicted = xyxy_to_cxcywh(corners.view(*logits.shape[:3], 4) / sizes)
        return dict(hidden_states=hidden_states, runs=found), (logits, predicted)

    def _region_head(self, forward: ForwardPass, samples: List[Any]) -> Tuple[Any, Any, Any]:
        """Return the region head with the results of a forward pass, and what it is called with."""
        head, features = copy(self.detector.roi_head), forward.state.features
        head._bbox_forward = lambda stage, *_: dict(forward.outputs.decoder_outputs['runs'][stage])
        return head, features, self.detector.rpn_head.predict(features, samples)

    def task_loss(
        self, forward: ForwardPass, samples: List[Any], images: Optional[List[int]] = None
    ) -> Dict[str, Tensor]:
        self.check_whole_batch(images)
        head, *x = self._region_head(forward, samples)
        loss: Dict[str, Tensor] = self._explained(forward.outputs, samples, head.loss, *x, samples)
        return loss

    def criterion(self) -> SetCriterion:
        """The head's terms; its L1 is on corners."""
        own = super().criterion()
        return own._replace(bbox=lambda *boxes: own.bbox(*map(cxcywh_to_xyxy, boxes)))

    def post_process(self, forward: ForwardPass, samples: List[Any]) -> List[InstanceData]:
        self.check_num_predictions()
        head, features, proposals = self._region_head(forward, samples)
        metas = [sample.metainfo for sample in samples]
        found: List[InstanceData] = head.predict_bbox(features, metas, proposals, head.test_cfg)
        return found

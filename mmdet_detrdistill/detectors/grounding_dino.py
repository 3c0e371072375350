"""Grounding DINO, MM-Grounding-DINO: class names are a prompt, class scores those of its tokens."""

from copy import copy
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmdet.models.task_modules.assigners import (
    BinaryFocalLossCost,
    FocalLossCost,
    HungarianAssigner,
)
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..functional.boxes import cxcywh_to_xyxy
from .base import DetectorAdapter
from .gt_assignment import image_sizes
from .outputs import EncoderState, ForwardPass
from .registry import register_adapter

#: of a zero-shot detector, whose config has no assigner: those that it is fine-tuned with
MATCH_COSTS = [
    dict(type='FocalLossCost', weight=2.0),
    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
    dict(type='IoUCost', iou_mode='giou', weight=2.0),
]


@register_adapter('GroundingDINO')
class GroundingDINOAdapter(DetectorAdapter):
    """The text is encoded once; a class's score is the mean over its tokens, as MMDetection has it.

    Queries, boxes and stages are DINO's.
    """

    teacher_only = 'its classes are phrases, there is no class head to train'
    prompted = True

    def __init__(self, detector: nn.Module, side: str = 'student') -> None:
        super().__init__(detector, side)
        self.phrases: List[str] = []
        self._token_weights = torch.empty(0)  # (K, tokens), rows add up to 1
        self._text: Optional[Dict[str, Tensor]] = None

    @property
    def num_classes(self) -> int:
        return len(self.phrases)

    @property
    def assigner(self) -> HungarianAssigner:
        """The head's own, with class logits in place of token logits."""
        if not hasattr(self.head, 'assigner'):
            return HungarianAssigner(MATCH_COSTS)
        assigner = copy(self.head.assigner)
        assigner.match_costs = [
            FocalLossCost(cost.alpha, cost.gamma, cost.eps, weight=cost.weight)
            if isinstance(cost, BinaryFocalLossCost)
            else cost
            for cost in assigner.match_costs
        ]
        return assigner

    def set_phrases(self, phrases: Sequence[str]) -> None:
        tokenizer = self.detector.language_model.tokenizer
        if not hasattr(tokenizer, 'batch_encode_plus'):
            raise ImportError(
                "MMDetection's BertModel needs an older transformers: pip install 'transformers<5'"
            )
        tokens, caption, places, _ = self.detector.get_tokens_and_prompts(list(phrases), True)
        ids = tokens.input_ids[0]
        limit = min(self.head.max_text_len, self.detector.language_model.max_tokens)
        if len(ids) > limit:
            raise ValueError(
                f'{len(phrases)} class names are {len(ids)} tokens, the teacher reads {limit}: '
                'shorten them, class_map={name: phrase}, or distil fewer classes'
            )
        _, positive = self.detector.get_positive_map(tokens, places)
        chosen = (positive > 0).float()
        for phrase, row in zip(phrases, chosen[:, : len(ids)] * (ids != tokenizer.unk_token_id)):
            if not row.any():
                raise ValueError(
                    f'no token of the language model matches class {phrase!r}: give it another '
                    'phrase, class_map={name: phrase}'
                )
        self.phrases = list(phrases)
        self._token_weights = chosen / chosen.sum(1, keepdim=True)
        with torch.no_grad():
            self._text = self.detector.language_model([caption])
            self._text['embedded'] = self.detector.text_feat_map(self._text['embedded'])

    def more_encoder_inputs(self, images: Tensor) -> Dict[str, Any]:
        if self._text is None:
            raise RuntimeError(
                'the teacher has no class names: put dict(type="TeacherCheckHook") into '
                'custom_hooks, or call `teacher_adapter.set_phrases`'
            )
        text = {name: value.to(images.device) for name, value in self._text.items()}
        size = len(images)
        return dict(text_dict={n: v.expand(size, *v.shape[1:]) for n, v in text.items()})

    def run_decoder(
        self, inputs: Dict[str, Any], state: EncoderState
    ) -> Tuple[Dict[str, Any], Tuple[Tensor, ...]]:
        decoded = self.detector.forward_decoder(**inputs)
        text = {name: state.head_inputs[name] for name in ('memory_text', 'text_token_mask')}
        logits, boxes = self.head(**decoded, **text)
        self._token_weights = self._token_weights.to(logits.device)  # it stays there
        scores = logits.float().sigmoid() @ self._token_weights.T
        return decoded, (torch.logit(scores, eps=torch.finfo(scores.dtype).eps), boxes)

    def post_process(self, forward: ForwardPass, samples: List[Any]) -> List[InstanceData]:
        """Take the best (query, class) scores, which the head itself makes of token logits."""
        found = []
        limit = (self.head.test_cfg or {}).get('max_per_img', forward.outputs.logits.shape[2])
        scores, boxes = forward.outputs.logits[-1].sigmoid(), forward.outputs.boxes[-1]
        for size, score, box in zip(image_sizes(samples, boxes), scores, boxes):
            best, places = score.flatten().topk(min(limit, score.numel()))
            corners = cxcywh_to_xyxy(box[places // score.shape[1]]).clamp(0, 1)
            labels = places % score.shape[1]
            found.append(InstanceData(bboxes=corners * size, scores=best, labels=labels))
        return found

    def predict(self, images: Tensor, samples: List[Any]) -> List[Any]:
        for sample in samples:
            sample.set_metainfo(dict(text=self.phrases, custom_entities=True))
        return super().predict(images, samples)

"""Grounding DINO, MM-Grounding-DINO: class names are a prompt, class scores those of its tokens."""

from typing import Any, Dict, List, Sequence, Tuple

import torch
from mmdet.models.task_modules import assigners
from mmengine.structures import InstanceData
from torch import Tensor

from .base import DetectorAdapter
from .outputs import EncoderState, ForwardPass
from .registry import register_adapter


@register_adapter('GroundingDINO')
class GroundingDINOAdapter(DetectorAdapter):
    """The text is encoded once; a class's score is the mean over its tokens, as MMDetection has it.

    Queries, boxes and stages are DINO's; `head_outputs` ends with the logits of the tokens.
    """

    teacher_only = 'its classes are phrases, there is no class head to train'
    prompted = True
    #: the costs of MMDetection's configs, on class logits; a zero-shot detector has no assigner
    assigner = assigners.HungarianAssigner(
        [
            dict(type=assigners.FocalLossCost, weight=2.0),
            dict(type=assigners.BBoxL1Cost, weight=5.0, box_format='xywh'),
            dict(type=assigners.IoUCost, iou_mode='giou', weight=2.0),
        ]
    )
    phrases: Sequence[str] = ()

    @property
    def num_classes(self) -> int:
        return len(self.phrases)

    def set_phrases(self, phrases: Sequence[str]) -> None:
        text_model = self.detector.language_model
        tokens, caption, places, _ = self.detector.get_tokens_and_prompts(list(phrases), True)
        ids, limit = tokens.input_ids[0], min(self.head.max_text_len, text_model.max_tokens)
        if len(ids) > limit:
            raise ValueError(
                f'{len(phrases)} class names are {len(ids)} tokens, the teacher reads {limit}: '
                'shorten them, class_map={name: phrase}, or distil fewer classes'
            )
        self._label_tokens, positive = self.detector.get_positive_map(tokens, places)
        chosen = (positive > 0).float()
        for phrase, row in zip(phrases, chosen[:, : len(ids)]):
            if not row[ids != text_model.tokenizer.unk_token_id].any():
                raise ValueError(
                    f'no token of the language model matches class {phrase!r}: give it another '
                    'phrase, class_map={name: phrase}'
                )
        self.phrases = list(phrases)
        self._token_weights = chosen / chosen.sum(1, keepdim=True)  # (K, tokens)
        with torch.no_grad():
            self._text: Dict[str, Tensor] = text_model([caption])
            self._text['embedded'] = self.detector.text_feat_map(self._text['embedded'])

    def more_encoder_inputs(self, images: Tensor) -> Dict[str, Any]:
        if not self.phrases:
            raise RuntimeError(
                'the teacher has no class names: put dict(type="TeacherCheckHook") into '
                'custom_hooks, or call `teacher_adapter.set_phrases`'
            )
        text = {name: value.to(images.device) for name, value in self._text.items()}
        return dict(text_dict={n: v.expand(len(images), *v.shape[1:]) for n, v in text.items()})

    def run_decoder(
        self, inputs: Dict[str, Any], state: EncoderState
    ) -> Tuple[Dict[str, Any], Tuple[Tensor, ...]]:
        decoded = self.detector.forward_decoder(**inputs)
        text = {name: state.head_inputs[name] for name in ('memory_text', 'text_token_mask')}
        tokens, boxes = self.head(**decoded, **text)
        self._token_weights = self._token_weights.to(tokens.device)  # it stays there
        scores = tokens.float().sigmoid() @ self._token_weights.T
        return decoded, (torch.logit(scores, eps=torch.finfo(scores.dtype).eps), boxes, tokens)

    def post_process(self, forward: ForwardPass, samples: List[Any]) -> List[InstanceData]:
        self.check_num_predictions()
        _, boxes, tokens = forward.outputs.head_outputs
        metas, label_tokens = [s.metainfo for s in samples], [self._label_tokens] * len(samples)
        found: List[InstanceData] = self.head.predict_by_feat(tokens, boxes, metas, label_tokens)
        return found

    def predict(self, images: Tensor, samples: List[Any]) -> List[Any]:
        for sample in samples:
            sample.set_metainfo(dict(text=self.phrases, custom_entities=True))
        return super().predict(images, samples)

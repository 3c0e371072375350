"""Co-DETR, of MMDetection's projects/CO-DETR: the query head owns encoder and decoder."""

from typing import Any, List, Tuple

import torch
from torch import Tensor

from .base import DetectorAdapter
from .outputs import EncoderState, ForwardPass
from .registry import register_adapter


@register_adapter('CoDETR')
class CoDETRAdapter(DetectorAdapter):
    """Only the query head and its queries, which are DINO's, take part; the other heads do not.

    The head returns neither hidden states nor memory masks: a forward hook on its transformer, set
    for the length of the call, reads them. Tensors inside are sequence first.
    """

    stages = ('extract_feat', 'query_head.forward', 'query_head.predict_by_feat')
    head_name = 'query_head'
    own_queries_only = 'the query head makes them itself'
    teacher_only = 'its auxiliary heads, dense and two-stage, train with losses of their own'

    @property
    def query_kind(self) -> str:
        return 'box'

    @property
    def embed_dims(self) -> int:
        return int(self.head.embed_dims)

    @property
    def num_queries(self) -> int:
        return int(self.head.num_query)

    @property
    def num_layers(self) -> Tuple[int, int]:
        transformer = self.head.transformer
        return int(transformer.encoder.num_layers), int(transformer.decoder.num_layers)

    def forward_pass(self, images: Tensor, samples: List[Any]) -> ForwardPass:
        head, (features, _, _) = self.head, self.pre_transformer(images, samples)
        calls: List[Any] = []
        handle = head.transformer.register_forward_hook(lambda *call: calls.append(call))
        try:
            predicted = head(features, [sample.metainfo for sample in samples])
        finally:
            handle.remove()
        _, (_, masks, *_), (hidden_states, references, _, _, memory) = calls[0]
        queries = head.transformer.query_embed.weight
        state = EncoderState(
            features=features,
            memory=memory.transpose(0, 1),
            padding_mask=torch.cat([mask.flatten(1) for mask in masks], dim=1),
            decoder_inputs=dict(
                query=queries.expand(len(images), *queries.shape), reference_points=references[0]
            ),
            head_inputs={},
        )
        decoded = dict(hidden_states=hidden_states.transpose(1, 2))
        return ForwardPass(state, self._outputs(decoded, predicted, slice(None)))

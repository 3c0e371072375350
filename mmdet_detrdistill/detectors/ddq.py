"""The adapter of DDQ DETR, whose modules share a dict of state and which adds dense queries."""

from typing import Any, Dict, List, Optional, Sequence

import torch
from torch import Tensor

from .base import DetectorAdapter
from .outputs import DecoderOutputs, EncoderState, ForwardPass
from .registry import register_adapter


@register_adapter('DDQDETR')
class DDQAdapter(DetectorAdapter):
    """Leave out the queries that DDQ's own selection drops (`query_mask`).

    The selection between two stages is among all queries, so that sets need a pass each.
    """

    separable = False

    def check_room(self, features: Sequence[Tensor], size: Sequence[int]) -> None:
        """Take any image: DDQ fills up with empty queries."""

    def check_num_predictions(self) -> None:
        """Likewise refuse a single decoder layer: DDQ predicts what it selects between two."""
        super().check_num_predictions()
        if self.num_layers[1] == 1:
            raise ValueError(
                f'{self.side}: MMDetection cannot predict with a {type(self.detector).__name__} of '
                'one decoder layer, as a validation does: set decoder.num_layers to 2 or more'
            )

    def decode(
        self, state: EncoderState, queries: Optional[Dict[str, Tensor]] = None
    ) -> DecoderOutputs:
        if queries is not None:
            return self._decode_others(state, queries)
        meta = state.head_inputs.get('dn_meta') or {}
        decoded = self.detector.forward_decoder(**state.decoder_inputs)
        last = -meta['num_dense_queries'] if meta else None
        kept = slice(meta.get('num_denoising_queries', 0), last)
        return self._outputs(decoded, self.head(**decoded), kept, self._distinct_mask(decoded))

    def _decode_others(self, state: EncoderState, queries: Dict[str, Tensor]) -> DecoderOutputs:
        """Decode given queries with one dense query, which a training decoder splits off."""
        cache = self.detector.cache_dict
        before = dict(cache)
        count = queries['query'].shape[1]
        inputs = {**state.decoder_inputs, **queries, 'dn_mask': None}
        if self.detector.training:
            for key, value in queries.items():
                inputs[key] = torch.cat((value, value[:, :1]), dim=1)
            apart = torch.zeros(count + 1, count + 1, dtype=torch.bool, device=state.memory.device)
            apart[:count, count:] = apart[count:, :count] = True
            inputs['dn_mask'] = apart
        try:
            cache.update(dis_query_info=[0, count], num_dense_queries=1)
            decoded = self.detector.forward_decoder(**inputs)
            predicted = self.head(**decoded)
            return self._outputs(decoded, predicted, slice(0, count), self._distinct_mask(decoded))
        finally:
            cache.update(before)

    def _distinct_mask(self, decoded: Dict[str, Any]) -> Tensor:
        """Return (L, B, N) bool as DDQ's head uses it in its loss; the first stage keeps all."""
        cache = self.detector.cache_dict
        states = decoded['hidden_states']
        masks = [mask[:: cache['num_heads'], 0] for mask in cache['distinct_query_mask']]
        shape = (states.shape[1], cache['dis_query_info'][1])
        everything = torch.ones(shape, dtype=torch.bool, device=states.device)
        return torch.stack([everything, *masks])

    def task_loss(
        self, forward: ForwardPass, samples: List[Any], images: Optional[List[int]] = None
    ) -> Dict[str, Tensor]:
        self.check_whole_batch(images)
        inputs = {**forward.state.head_inputs, **forward.outputs.decoder_outputs}
        losses: Dict[str, Tensor] = self._explained(
            forward.outputs, samples, lambda: self.head.loss(**inputs, batch_data_samples=samples)
        )
        return losses

"""What an adapter keeps of a forward pass: B images, L stages, N queries, P = sum H * W."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from torch import Tensor


@dataclass(frozen=True)
class EncoderState:
    """Everything before the decoder.

    Attributes:
        features: neck maps that enter the transformer, per level (B, D, H, W).
        memory: (B, P, D) encoder output, levels one after the other.
        padding_mask: (B, P) bool, True = padded (MMDetection's sense), or None without padding.
        decoder_inputs: keyword arguments of `forward_decoder`.
        head_inputs: what `pre_decoder` hands to the head's loss.
    """

    features: Tuple[Tensor, ...]
    memory: Tensor
    padding_mask: Optional[Tensor]
    decoder_inputs: Dict[str, Any]
    head_inputs: Dict[str, Any]

    @property
    def sizes(self) -> Tuple[Tuple[int, int], ...]:
        """The (H, W) of each level."""
        return tuple((feat.shape[-2], feat.shape[-1]) for feat in self.features)

    def memory_maps(self) -> Tuple[Tensor, ...]:
        """Return `memory` as maps, per level (B, D, H, W)."""
        parts = self.memory.split([h * w for h, w in self.sizes], dim=1)
        return tuple(
            part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, self.sizes)
        )

    @cached_property
    def valid_masks(self) -> Optional[Tuple[Tensor, ...]]:
        """Return per level (B, H, W) bool, True = pixel of the image; None without padding."""
        if self.padding_mask is None:
            return None
        parts = (~self.padding_mask).split([h * w for h, w in self.sizes], dim=1)
        return tuple(part.unflatten(1, size) for part, size in zip(parts, self.sizes))


@dataclass(frozen=True)
class DecoderOutputs:
    """Predictions of every decoder stage, without denoising and auxiliary queries.

    Attributes:
        hidden_states: (L, B, N, D).
        logits: (L, B, N, C), C = K for a sigmoid head, K + 1 (background last) for a softmax head.
        boxes: (L, B, N, 4), cxcywh in [0, 1] of the unpadded image.
        query_mask: (L, B, N) bool, True = the detector itself uses the query; None = all.
        decoder_outputs: as `forward_decoder` gave them, all queries.
        head_outputs: class logits and boxes as the head gave them, all queries.
    """

    hidden_states: Tensor
    logits: Tensor
    boxes: Tensor
    query_mask: Optional[Tensor]
    decoder_outputs: Dict[str, Any]
    head_outputs: Tuple[Tensor, ...]

    def split(self, counts: Sequence[int]) -> List['DecoderOutputs']:
        """Split the queries into sets of these sizes; the last two attributes stay whole."""
        names = ['hidden_states', 'logits', 'boxes']
        names += [] if self.query_mask is None else ['query_mask']
        parts = zip(*(getattr(self, name).split(list(counts), dim=2) for name in names))
        return [replace(self, **dict(zip(names, part))) for part in parts]


class ForwardPass(NamedTuple):
    """One detector's forward pass over a batch."""

    state: EncoderState
    outputs: DecoderOutputs

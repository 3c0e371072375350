"""NaN and Inf, named by detector, tensor and image."""

from typing import Any, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from .outputs import DecoderOutputs, EncoderState

#: plural name, name of an index, tensors (B, ...) each
Part = Tuple[str, str, Union[Tensor, Sequence[Tensor]]]


def name_non_finite_image(
    side: str, outputs: DecoderOutputs, samples: List[Any], state: Optional[EncoderState] = None
) -> Optional[str]:
    """Name what is NaN or Inf in a forward pass, where first and in which image; None if nothing.

    Args:
        side: 'student' or 'teacher'.
        outputs: of the decoder.
        samples: B `DetDataSample`s.
        state: of the encoder, looked at first; None: not at all.
    """
    parts: List[Part] = [
        ('logits', 'stage', outputs.logits),
        ('boxes', 'stage', outputs.boxes),
        ('hidden states', 'stage', outputs.hidden_states),
    ]
    if state is not None:
        encoder: List[Part] = [
            ('features', 'level', state.features),
            ('memory values', '', [state.memory]),
        ]
        parts = [*encoder, *parts]
    for name, index_name, tensors in parts:
        for index, tensor in enumerate(tensors):
            bad = (~torch.isfinite(tensor)).flatten(1).any(-1).nonzero().flatten()
            if len(bad):
                image = int(bad[0])
                place = f'{index_name} {index}, ' if index_name else ''
                path = samples[image].metainfo.get('img_path', 'no path')
                return f'{side} {name} are not finite at {place}image {image} of the batch: {path}'
    return None

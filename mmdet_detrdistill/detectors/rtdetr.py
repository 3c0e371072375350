"""RT-DETR v1 and v2: queries are encoder memory, references logits, stages lists of predictions."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, Tuple

import torch
from mmdet.models.losses import VarifocalLoss
from torch import Tensor, nn

from ..functional.assign_kd import IoU
from .base import DetectorAdapter
from .outputs import EncoderState
from .registry import register_adapter


@register_adapter('RTDETR')
class RTDETRAdapter(DetectorAdapter):
    """Its decoder applies the head's branches itself and gives class logits as hidden states.

    It is given branches that change nothing, so that the true hidden states come out; the head's
    class branches follow. There is no padding mask: the whole batch is image to it.
    """

    @property
    def num_layers(self) -> Tuple[int, int]:
        return int(self.detector.encoder.num_encoder_layers), int(self.detector.decoder.num_layers)

    def run_decoder(
        self, inputs: Dict[str, Any], state: EncoderState
    ) -> Tuple[Dict[str, Any], Tuple[Tensor, ...]]:
        decoder, branches = self.detector.decoder, self.head.cls_branches
        unchanged = [torch.clone] * decoder.num_layers
        with every_stage(decoder):
            decoded = self.detector.forward_decoder(**{**inputs, 'cls_branches': unchanged})
        hidden_states = decoded['hidden_states']
        logits = [branch(hidden) for branch, hidden in zip(branches, hidden_states)]
        decoded = {**decoded, 'hidden_states': torch.stack(hidden_states)}
        return decoded, (torch.stack(logits), torch.stack(decoded['references']))

    def class_target(self, labels: Tensor, iou: IoU) -> Any:
        """The IoU in the column of the label, for the varifocal loss."""
        if not isinstance(self.head.loss_cls, VarifocalLoss):
            return super().class_target(labels, iou)
        quality = iou()
        target = quality.new_zeros(len(labels), self.num_classes + 1)
        return target.scatter(1, labels[:, None], quality[:, None])[:, :-1]


@register_adapter('DFINE')
class DFINEAdapter(RTDETRAdapter):
    def __init__(self, detector: nn.Module, side: str = 'student') -> None:
        raise TypeError(
            f'{side} {type(detector).__name__} is not supported: D-FINE, and DEIM on it, predict '
            'distributions of box sides beside the boxes. RT-DETR v1, v2 and DEIM on them are.'
        )


@contextmanager
def every_stage(decoder: nn.Module) -> Iterator[None]:
    """Let a decoder in eval mode make all stages; its layers stay in eval mode."""
    training = decoder.training
    decoder.training = True
    try:
        yield
    finally:
        decoder.training = training

"""What the losses on the student's injected decoder pass have in common."""

from typing import Any, Dict

from ..detectors import DecoderOutputs
from ..detectors.pair import DistillPair
from .base import DistillLoss


class InjectedLoss(DistillLoss):
    """A loss on the student's predictions for injected queries.

    The distiller builds the rule, shares it among losses of equal config, and sets
    `injection_name`.

    Args:
        injection: config of a registered rule; `type='auto'` takes the teacher's queries where they
            mean the same to the student, else the teacher's boxes where the student has anchors.
        others: see `DistillLoss`.
    """

    injects = True
    injection_name = ''

    def __init__(self, injection: Dict[str, Any], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.injection_config = dict(injection)

    def injected_pass(self, pair: DistillPair) -> DecoderOutputs:
        """Decode the injected queries, once per batch for all losses that share the rule."""
        return pair.injected_pass(self.injection_name)

"""The base of the losses on the injected pass."""

from dataclasses import replace
from typing import Any, Dict

from ..detectors import DecoderOutputs
from ..detectors.pair import DistillPair
from .base import DistillLoss
from .injection import InjectionRule


class InjectedLoss(DistillLoss):
    """A loss on the student's predictions for injected queries.

    The distiller builds the rule, shares it among losses of equal config, and calls `follow`.

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

    def follow(self, name: str, rule: InjectionRule) -> None:
        """Take the distiller's rule of this name; it may decide which teacher stage is followed."""
        self.injection_name = name
        if rule.from_last_stage and hasattr(self.options, 'pairing'):
            self.options = replace(self.options, pairing='last')

    def injected_pass(self, pair: DistillPair) -> DecoderOutputs:
        """Decode the injected queries, once per batch for all losses that share the rule."""
        return pair.injected_pass(self.injection_name)

"""What losses on the student's injected decoder pass have in common."""

from typing import Any, Dict, Optional

from ..detectors import DecoderOutputs, DetectorAdapter
from ..detectors.pair import DistillPair
from .base import DistillLoss
from .injection import InjectionRule, build_injection


class InjectedLoss(DistillLoss):
    """A loss on what the student answers to the teacher's queries.

    Args:
        injection: config of a registered rule; `type='auto'` takes the teacher's queries where they
            mean the same to the student, else the teacher's boxes where the student has anchors.
        others: see `DistillLoss`.
    """

    injects = True

    def __init__(self, injection: Dict[str, Any], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.injection_config = dict(injection)
        self.injection: Optional[InjectionRule] = None

    def prepare(self, student: DetectorAdapter, teacher: DetectorAdapter) -> None:
        """Build the rule, unless another loss of the same config has shared its own already."""
        if self.injection is None:
            self.injection = build_injection(self.injection_config, student, teacher)

    def injected_pass(self, pair: DistillPair) -> DecoderOutputs:
        """The student's predictions for the injected queries."""
        if self.injection is None:
            raise RuntimeError(f'{type(self).__name__}.prepare has not been called')
        return pair.injected_pass(self.injection)

"""The base of the losses on the injected pass."""

from dataclasses import replace
from typing import Any, ClassVar, Dict, Sequence, Union

from ..detectors import DecoderOutputs
from ..detectors.pair import DistillPair
from .base import DistillLoss
from .injection import InjectionRule


class InjectedLoss(DistillLoss):
    """A loss on the student's predictions for injected queries.

    The distiller builds the rules, shares them among losses of equal config, and calls `follow`.
    The queries of all rules enter the student's decoder in one pass.

    Args:
        injection: config of a registered rule, or a list of such where the loss takes several;
            `type='auto'` takes the teacher's queries where they mean the same to the student, else
            the teacher's boxes where the student has anchors.
        others: see `DistillLoss`.
    """

    injects = True
    #: whether the loss takes a list of rules
    several_rules: ClassVar[bool] = False

    def __init__(
        self,
        injection: Union[Dict[str, Any], Sequence[Dict[str, Any]]],
        *args: Any,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        references = getattr(self.options, 'references', 'teacher')
        configs = [injection] if isinstance(injection, dict) else injection
        self.injection_configs = [dict(config) for config in configs]
        for config in self.injection_configs:
            if config['type'] in ('auto', 'TeacherQueryInjection'):
                config.setdefault('references', references)
        #: by name; a plain dict, since they belong to the distiller
        self.rules: Dict[str, InjectionRule] = {}

    def follow(self, name: str, rule: InjectionRule) -> None:
        """Take the distiller's rule of this name; it may decide which teacher stage is followed."""
        self.rules[name] = rule
        if rule.from_last_stage and hasattr(self.options, 'pairing'):
            self.options = replace(self.options, pairing='last')

    def injected_pass(self, pair: DistillPair) -> DecoderOutputs:
        """The student's predictions for the queries of the first rule."""
        return pair.injected_pass(next(iter(self.rules)))

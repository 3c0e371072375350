"""The base of injection rules, and the choice of one."""

from typing import Any, Dict, List, Tuple, Union

from mmdet.registry import TASK_UTILS
from mmengine.logging import print_log
from torch import Tensor, nn

from ...detectors import DetectorAdapter
from ...detectors.pair import DistillPair, Injected

RULES: List[str] = ['TeacherQueryInjection', 'TeacherBoxInjection']


class InjectionRule(nn.Module):
    """Make queries of the student's decoder, or of both decoders; registered in `TASK_UTILS`.

    A module, so that a learned projection is trained and stored with the distillation losses.
    """

    #: whether the queries stand where the teacher's last stage predicts; then every stage of the
    #: student follows that stage, whatever the `pairing` of a loss
    from_last_stage: bool = False
    #: whether the queries enter the teacher's decoder too; then it has no assignment for them
    both_sides: bool = False
    #: whether `AlignedKDLoss` weights each query with the teacher's confidence
    by_confidence: bool = False
    #: of the names of the terms of `AlignedKDLoss`
    prefix: str = ''
    #: what to do where the rule refuses
    way_out: str = (
        'Distil logits and features, which serve every pair (tools/distill.py --losses logits '
        'feature), or use a teacher of the same family or a student with anchors (DAB, two-stage '
        'Deformable, DINO, DDQ, RT-DETR, Sparse R-CNN).'
    )
    #: why the rules that `type='auto'` asked before refused, each 'Name: reason'
    passed_over: Tuple[str, ...] = ()

    def refusal(self, student: DetectorAdapter, teacher: DetectorAdapter) -> str:
        """Say why the rule cannot serve this pair, or return ''."""
        return ''

    def prepare(self, student: DetectorAdapter, teacher: DetectorAdapter) -> None:
        """Make what depends on both detectors; called once, before the optimizer is built."""

    def forward(self, pair: DistillPair) -> Union[Injected, Dict[str, Tensor]]:
        """Return the entries of the student's decoder inputs to replace, each (B, N, .).

        With `both_sides` an `Injected` that has those of the teacher's too.
        """
        raise TypeError(f'{type(self).__name__} defines no forward')


def build_injection(
    config: Dict[str, Any], student: DetectorAdapter, teacher: DetectorAdapter
) -> InjectionRule:
    """Build the rule that a config names; `type='auto'` takes the first that serves the pair.

    Raises:
        ValueError: the rule, or with 'auto' every rule, refuses; gives each reason.
    """
    config = dict(config)
    candidates = RULES if config['type'] == 'auto' else [config['type']]
    refusals: List[str] = []
    for name in candidates:
        options = config if config['type'] != 'auto' else {**config, 'type': name}
        if config['type'] == 'auto' and name != 'TeacherQueryInjection':
            options.pop('references', None)
        rule: InjectionRule = TASK_UTILS.build(options)
        reason = rule.refusal(student, teacher)
        if not reason:
            if config['type'] == 'auto':
                why = f' ({"; ".join(refusals)})' if refusals else ''
                print_log(f'injection: {name}{why}', logger='current')
            rule.passed_over = tuple(refusals)
            rule.prepare(student, teacher)
            return rule
        refusals.append(f'{name}: {reason}')
    raise ValueError(
        f'no queries can be injected into this {type(student.detector).__name__} student of a '
        f'{type(teacher.detector).__name__} teacher. {"; ".join(refusals)}. {rule.way_out}'
    )

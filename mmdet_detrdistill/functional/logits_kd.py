"""Hungarian-matching logits distillation."""

from dataclasses import dataclass
from typing import Callable, Dict, List, Literal, NamedTuple, Optional, Sequence, Tuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .boxes import best_giou, cxcywh_to_xyxy, giou_distance, xyxy_to_cxcywh
from .classes import cross_entropy, pick_classes, soft_targets, target_entropy
from .matching import matching_cost, name_non_finite, start_matching
from .stages import (
    GroupReduction,
    Pairing,
    Reduce,
    StagePairs,
    at_least_one,
    means_over,
    pick_stages,
    scaled,
    stage_pairs,
)

Matching = Literal['separate', 'joint']
Negatives = Literal['all', 'hard', 'none']


class Predictions(NamedTuple):
    """What one detector predicts for N queries in each of L decoder stages.

    Attributes:
        logits: (L, B, N, C), C = K for 'sigmoid', K + 1 (background last) for 'softmax'.
        boxes: (L, B, N, 4), cxcywh in [0, 1] of the unpadded image.
        activation: 'sigmoid' or 'softmax'.
        mask: (L, B, N) bool, True = takes part. None: all.
        classes: (K',) int64, of the K classes those that the other side has too, in an order common
            to both. None: all.
        embeds: (L, B, N, D) decoder outputs; only the contrast reads them.
    """

    logits: Tensor
    boxes: Tensor
    activation: str = 'sigmoid'
    mask: Optional[Tensor] = None
    classes: Optional[Tensor] = None
    embeds: Optional[Tensor] = None


@dataclass(frozen=True)
class PairOptions:
    """How pairs of predictions are compared.

    Attributes:
        negative_cls: distil the class of negatives too, not only their box.
        pairing: teacher stages of a student stage, see `stage_groups`.
        group_reduction: 'mean' or 'sum' over the teacher stages of a group.
        cls_weight: weight in cost and loss; likewise `bbox_weight` and `giou_weight`.
    """

    negative_cls: bool = False
    pairing: Pairing = 'group'
    group_reduction: GroupReduction = 'mean'
    cls_weight: float = 1.0
    bbox_weight: float = 5.0
    giou_weight: float = 2.0


@dataclass(frozen=True)
class LogitsKDOptions(PairOptions):
    """Options of `logits_kd`; the defaults are the paper's form.

    Attributes:
        matching: 'separate' assigns positives and negatives apart, 'joint' all at once.
        negatives: which teacher queries without an object are matched and distilled: 'all', 'hard'
            (those near an object), or 'none'. Not in the paper; the idea of QSKD (2024).
        hard_giou: a negative is hard when its GIoU with some object is larger.
        contrast_weight: weight of `contrast` on the matched queries' embeddings (the released
            code's extra term, 0.2 there); 0 leaves it out.
    """

    matching: Matching = 'separate'
    negatives: Negatives = 'all'
    hard_giou: float = 0.0
    contrast_weight: float = 0.0

    def __post_init__(self) -> None:
        for name, kind in (('matching', Matching), ('negatives', Negatives)):
            value, valid = getattr(self, name), get_args(kind)
            if value not in valid:
                raise ValueError(f'{name} must be one of {valid}, got {value!r}')

    @property
    def needs_positives(self) -> bool:
        """Whether positives and negatives are told apart."""
        return self.matching == 'separate' or not self.negative_cls or self.negatives != 'all'


class PairedStages(NamedTuple):
    """Both sides' predictions in P pairs (student stage, teacher stage).

    Attributes:
        logits: (P, B, N_s, C) of the student.
        boxes: (P, B, N_s, 4) of the student.
        targets: (P, B, N_t, C) soft labels.
        target_boxes: (P, B, N_t, 4), inside the image; `target_corners`: the same as x1y1x2y2.
        student_mask: (P, B, N_s) bool, or None: all.
        teacher_mask: (P, B, N_t) bool.
        pairs: the stages, and the factor of each pair.
    """

    logits: Tensor
    boxes: Tensor
    targets: Tensor
    target_boxes: Tensor
    target_corners: Tensor
    student_mask: Optional[Tensor]
    teacher_mask: Tensor
    pairs: StagePairs


class QuerySet(NamedTuple):
    """Teacher queries that are matched, and normalised, apart from others.

    Attributes:
        prefix: of the names of its terms.
        queries: (P, B, N_t) bool.
        classified: (P, B, N_t) bool, those whose class is distilled; None: no class term.
    """

    prefix: str
    queries: Tensor
    classified: Optional[Tensor]


def logits_kd(
    student: Predictions,
    teacher: Predictions,
    teacher_positive_mask: Optional[Tensor],
    options: LogitsKDOptions = LogitsKDOptions(),
    reduce: Reduce = at_least_one,
    gt_boxes: Optional[Sequence[Tensor]] = None,
) -> Dict[str, Tensor]:
    """Supervise the student with the teacher's predictions as soft pseudo ground truth.

    Source: DETRDistill, Eq. 3 (positives), Eq. 4 (negatives), Fig. 5 (progressive).
    Deviation: the printed text does not say how a group of teacher stages is reduced (mean here)
    nor how sums are normalised (number of pairs here); the released code matches all teacher
    queries jointly (`matching='joint'`) and distils the class of every pair (`negative_cls=True`).

    Convention: the teacher's boxes are clamped to the image first. Every term is a sum over matched
    pairs divided by the number of pairs it sums over, and summed over student stages. The teacher
    gets no gradient.

    Args:
        student: N_s queries.
        teacher: N_t queries.
        teacher_positive_mask: (L_t, B, N_t) bool, the teacher queries that the teacher's own
            assignment gave an object. May be None unless `options.needs_positives`.
        options: see `LogitsKDOptions`.
        reduce: averages a tensor of counts over processes, and keeps each from being 0.
        gt_boxes: per image (M_b, 4), cxcywh in [0, 1]; only `negatives='hard'` reads them.

    Returns:
        0-d tensors `cls`, `bbox`, `giou` and, when separate, `neg_bbox`, `neg_giou` (`neg_cls`);
        all 0 when both sides predict the same and no box leaves the image. `contrast` when asked
        for. `entropy` is the detached floor that was taken off the class terms.

    Raises:
        ValueError: unknown option; no positives, objects or embeddings where the options need them;
            NaN or Inf, naming side, image and stage.
    """
    return start_logits_kd(student, teacher, teacher_positive_mask, options, reduce, gt_boxes)()


def start_logits_kd(
    student: Predictions,
    teacher: Predictions,
    teacher_positive_mask: Optional[Tensor],
    options: LogitsKDOptions = LogitsKDOptions(),
    reduce: Reduce = at_least_one,
    gt_boxes: Optional[Sequence[Tensor]] = None,
) -> Callable[[], Dict[str, Tensor]]:
    """Start the matching of `logits_kd`; the function that comes back waits for it, and returns
    what `logits_kd` does.
    """
    stages = pair_stages(student, teacher, options)
    sets = query_sets(stages, teacher_positive_mask, options, gt_boxes)
    cost = matching_cost(
        stages.logits,
        stages.boxes,
        stages.targets,
        stages.target_boxes,
        activation=student.activation,
        cls_weight=options.cls_weight,
        bbox_weight=options.bbox_weight,
        giou_weight=options.giou_weight,
    )
    # 0 * Inf is NaN: a sigmoid or the clamp would hide an infinite teacher from the matching.
    hidden = 0 * torch.cat((teacher.logits, teacher.boxes), -1).detach().sum(-1)
    cost += pick_stages(hidden, stages.pairs.teacher).unsqueeze(-2)
    matches_of = start_matching(cost, stages.student_mask, [queries for _, queries, _ in sets])

    def terms() -> Dict[str, Tensor]:
        try:
            matched = matches_of()
        except ValueError as error:
            found = name_non_finite('student', student.logits, student.boxes)
            found = found or name_non_finite('teacher', teacher.logits, teacher.boxes)
            raise ValueError(found or str(error)) from error
        values = pair_values(stages, matched, student.activation, options)
        if options.contrast_weight:
            if student.embeds is None or teacher.embeds is None:
                raise ValueError('contrast_weight needs the embeds of student and teacher')
            embeds = pick_stages(student.embeds, stages.pairs.student)
            targets = pick_stages(teacher.embeds, stages.pairs.teacher)
            values['contrast'] = options.contrast_weight * contrast(embeds, targets, matched)
        return set_terms(values, matched, sets, stages.pairs.factors, reduce)

    return terms


def pair_stages(student: Predictions, teacher: Predictions, options: PairOptions) -> PairedStages:
    """Pair decoder stages (DETRDistill, Fig. 5), and make targets of the teacher's predictions."""
    pairs = stage_pairs(
        student.logits.shape[0], teacher.logits.shape[0], options.pairing, options.group_reduction
    )
    targets = soft_targets(teacher.logits, teacher.activation, student.activation, teacher.classes)
    corners = pick_stages(cxcywh_to_xyxy(teacher.boxes.detach()).clamp(0, 1), pairs.teacher)
    logits = student.logits
    if student.classes is not None:
        logits = pick_classes(logits, student.classes, student.activation)
    mask = teacher.mask
    if mask is None:
        mask = torch.ones_like(teacher.boxes[..., 0], dtype=torch.bool)
    return PairedStages(
        logits=pick_stages(logits, pairs.student),
        boxes=pick_stages(student.boxes, pairs.student),
        targets=pick_stages(targets, pairs.teacher),
        target_boxes=xyxy_to_cxcywh(corners),
        target_corners=corners,
        student_mask=None if student.mask is None else pick_stages(student.mask, pairs.student),
        teacher_mask=pick_stages(mask, pairs.teacher),
        pairs=pairs,
    )


def query_sets(
    stages: PairedStages,
    teacher_positive_mask: Optional[Tensor],
    options: LogitsKDOptions,
    gt_boxes: Optional[Sequence[Tensor]] = None,
) -> List[QuerySet]:
    """Choose the teacher queries that are matched together (DETRDistill, Eq. 3 and 4)."""
    every = stages.teacher_mask
    if not options.needs_positives:
        return [QuerySet('', every, every)]
    if teacher_positive_mask is None:
        raise ValueError(f'{options} needs teacher_positive_mask')
    has_object = pick_stages(teacher_positive_mask, stages.pairs.teacher)
    positive = every & has_object
    negative = every ^ positive
    if options.negatives == 'none':
        return [QuerySet('', positive, positive)]
    if options.negatives == 'hard':
        if gt_boxes is None:
            raise ValueError("negatives='hard' needs gt_boxes")
        negative = negative & (best_giou(stages.target_boxes, gt_boxes) > options.hard_giou)
    if options.matching == 'joint':
        chosen = positive | negative
        return [QuerySet('', chosen, chosen if options.negative_cls else positive)]
    return [
        QuerySet('', positive, positive),
        QuerySet('neg_', negative, negative if options.negative_cls else None),
    ]


def pair_values(
    stages: PairedStages, matched: Tensor, activation: str, options: PairOptions
) -> Dict[str, Tensor]:
    """Compare each teacher query with its student query: the summands of Eq. 3 and 4.

    Args:
        stages: both sides' predictions.
        matched: (P, B, N_t) int64, the student query of each teacher query; what a query without
            one (-1) gets is meaningless.
        activation: the student's.
        options: weights of the terms.

    Returns:
        (P, B, N_t) `bbox` (L1, summed over the 4 coordinates), `giou` (1 - GIoU), `cls` (cross
        entropy minus its floor) and `entropy` (the floor: that of the soft labels). With soft
        labels the cross entropy never nears 0; subtracting the constant changes no gradient. All
        are >= 0 up to rounding.
    """
    rows = matched.clamp(min=0).unsqueeze(-1)
    boxes = stages.boxes.gather(2, rows.expand(-1, -1, -1, 4))
    logits = stages.logits.gather(2, rows.expand(-1, -1, -1, stages.logits.shape[-1]))
    entropy = target_entropy(stages.targets, activation)
    apart = giou_distance(cxcywh_to_xyxy(boxes), stages.target_corners)
    return {
        'bbox': options.bbox_weight * (boxes - stages.target_boxes).abs().sum(-1),
        'giou': options.giou_weight * apart,
        'cls': scaled(
            cross_entropy(logits, stages.targets, activation) - entropy, options.cls_weight
        ),
        'entropy': scaled(entropy, options.cls_weight),
    }


def set_terms(
    values: Dict[str, Tensor],
    matched: Tensor,
    sets: Sequence[QuerySet],
    factors: Tuple[float, ...],
    reduce: Reduce,
    weights: Optional[Tensor] = None,
) -> Dict[str, Tensor]:
    """Reduce values per teacher query to one term per set: a mean over its pairs.

    Args:
        values: (P, B, N_t) by name, see `pair_values`; 'cls' and 'entropy' are means over the
            set's classified queries. The prefix of a set does not apply to 'entropy' and
            'contrast', which are sums over the sets.
        matched: (P, B, N_t) int64, -1 = no student query.
        sets: of teacher queries.
        factors: P factors of the pairs of stages.
        reduce: as in `logits_kd`.
        weights: (P, B, N_t) of the mean; None: all 1.

    Returns:
        0-d tensors by name.
    """
    names, chosen, masks = [], [], []
    for prefix, queries, classified in sets:
        for name, value in values.items():
            mask = classified if name in ('cls', 'entropy') else queries
            if mask is not None:
                names.append(name if name in ('entropy', 'contrast') else prefix + name)
                chosen.append(value)
                masks.append(mask)
    mask = torch.stack(masks) & (matched >= 0)
    counts, summands = mask.to(chosen[0].dtype), torch.stack(chosen)
    if weights is not None:
        counts, summands = counts * weights, summands * weights
    means = means_over(summands, mask, reduce(counts.sum((2, 3))), factors)
    terms: Dict[str, Tensor] = {}
    for name, mean in zip(names, means.unbind()):
        mean = mean.detach() if name == 'entropy' else mean
        terms[name] = terms[name] + mean if name in terms else mean
    return terms


def contrast(
    student_embeds: Tensor, teacher_embeds: Tensor, matched: Tensor, temperature: float = 0.07
) -> Tensor:
    """Tell the teacher query of each matched student query from the image's others (InfoNCE).

    Source: none in the paper; the released code has such a term on by default (weight 0.2,
    temperature 0.07). Cross entropy over cosine similarities / temperature.

    Args:
        student_embeds: (..., N_s, D).
        teacher_embeds: (..., N_t, D), gets no gradient.
        matched: (..., N_t) int64, student query of each teacher query; -1 entries are meaningless.
        temperature: divides the similarities.

    Returns:
        (..., N_t) >= 0, log N_t when all similarities are equal.
    """
    rows = matched.clamp(min=0).unsqueeze(-1).expand(*matched.shape, student_embeds.shape[-1])
    students = F.normalize(student_embeds.gather(-2, rows), dim=-1)
    teachers = F.normalize(teacher_embeds.detach(), dim=-1)
    similarity = students @ teachers.transpose(-1, -2) / temperature
    return -torch.diagonal(similarity.log_softmax(-1), dim1=-2, dim2=-1)

"""The method as pure functions on tensors; needs torch and SciPy only; Numba is optional."""

from .aligned_kd import aligned_kd
from .assign_kd import SetCriterion, assign_kd
from .boxes import clamp_to_image, cxcywh_to_xyxy, iou_and_giou, xyxy_to_cxcywh
from .classes import class_divergence, foreground_probs, pick_classes, soft_targets, target_entropy
from .feature_kd import feature_kd, query_quality, target_masks
from .logits_kd import logits_kd
from .matching import match, matching_cost
from .stability import instability, queries_of_objects
from .stages import stage_groups

__all__ = [
    'SetCriterion',
    'aligned_kd',
    'assign_kd',
    'clamp_to_image',
    'class_divergence',
    'cxcywh_to_xyxy',
    'feature_kd',
    'foreground_probs',
    'instability',
    'iou_and_giou',
    'logits_kd',
    'match',
    'matching_cost',
    'pick_classes',
    'queries_of_objects',
    'query_quality',
    'soft_targets',
    'stage_groups',
    'target_entropy',
    'target_masks',
    'xyxy_to_cxcywh',
]

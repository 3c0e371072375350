"""Images of what a teacher passes on: masks, matches, injected queries, boxes."""

from .draw import draw_all, draw_boxes, draw_change, draw_masks, draw_matches, draw_references
from .view import PairView, view_pair

__all__ = [
    'PairView',
    'draw_all',
    'draw_boxes',
    'draw_change',
    'draw_masks',
    'draw_matches',
    'draw_references',
    'view_pair',
]

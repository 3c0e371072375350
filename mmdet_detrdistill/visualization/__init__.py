"""Images of what is distilled: masks, matches, injected queries, boxes."""

from .draw import draw_all
from .view import PairView, Predictions, view_pair

__all__ = ['PairView', 'Predictions', 'draw_all', 'view_pair']

"""Draw a `PairView` with Matplotlib; every function returns an (H, W, 3) uint8 RGB image."""

from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from .view import SURE, PairView, Predictions, found_objects

# Okabe and Ito
STUDENT, TEACHER, OBJECT, GAINED, LOST = '#0072B2', '#D55E00', '#F0E442', '#009E73', '#CC79A7'
FORMS = {'paper': 'form of the paper', 'released': 'form of the official code'}


def draw_all(
    view: PairView, names: Optional[Sequence[str]] = None, alone: Optional[Predictions] = None
) -> Dict[str, np.ndarray]:
    """Draw every kind of image for which the view has data.

    Args:
        names: class names of the student, in label order.
        alone: predictions of the student that was trained alone.

    Returns:
        By name, `masks_paper`, `masks_released`, `boxes`, `matches`; `references` where there are
        any; `change` with `alone`.
    """
    drawn = {f'masks_{form}': draw_masks(view, form) for form in view.masks}
    drawn['boxes'] = draw_boxes(view, names)
    drawn['matches'] = draw_matches(view)
    if view.references is not None:
        drawn['references'] = draw_references(view)
    if alone is not None:
        drawn['change'] = draw_change(view, alone, names)
    return drawn


def panels(view: PairView, rows: int, columns: int, side: float) -> Tuple[Any, np.ndarray]:
    """Make a figure of images without axes; its data coordinates are [0, 1]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = view.image.shape[:2]
    size = (columns * side, rows * side * height / width + 0.8)
    figure = Figure(figsize=size, dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.imshow(view.image, extent=(0, 1, 1, 0), aspect=height / width)
        ax.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    return figure, axes


def finish(figure: Any, **legend: str) -> np.ndarray:
    """Add a legend of lines, name=colour, and render the figure."""
    from matplotlib.lines import Line2D

    if legend:
        lines = [Line2D([], [], color=colour, lw=1.6) for colour in legend.values()]
        labels = [name.replace('_', ' ') for name in legend]
        figure.legend(lines, labels, loc='outside lower center', ncols=len(lines), fontsize=7)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def add_boxes(ax: Any, boxes: Predictions, colour: str, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    for x1, y1, x2, y2 in boxes.boxes.tolist():
        outline = dict(fill=False, edgecolor=colour, lw=1.4, **style)
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **outline))


def add_predictions(
    ax: Any, predictions: Predictions, colour: str, names: Optional[Sequence[str]]
) -> None:
    """Add the boxes of confident predictions with class and score."""
    sure = predictions.sure()
    add_boxes(ax, sure, colour)
    patch = dict(facecolor=colour, edgecolor='none', pad=0.8)
    style = dict(fontsize=6, color='white', va='bottom', clip_on=True, bbox=patch)
    for box, label, score in zip(*(values.tolist() for values in sure)):
        name = f'class {label}' if names is None else names[label]
        ax.text(*box[:2], f'{name} {score:.2f}', **style)


def draw_masks(view: PairView, form: str = 'paper') -> np.ndarray:
    """Draw target-aware masks: a row per teacher stage, a column per feature level."""
    stages = view.masks[form]
    figure, axes = panels(view, len(stages), len(view.strides), side=2.2)
    for row, stage in enumerate(stages):
        for ax, mask, stride in zip(axes[row], stage, view.strides):
            peak = float(mask.max())
            place = dict(extent=(0, 1, 1, 0), aspect=ax.get_aspect())
            shares = mask.numpy() / (peak or 1.0)
            shown = ax.imshow(shares, cmap='viridis', alpha=0.6, vmin=0, vmax=1, **place)
            ax.set_title(f'stage {row + 1}, stride {stride}', fontsize=8)
            ax.set_xlabel(f'maximum {peak:.3g}', fontsize=7)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label("weight of a pixel's squared error (share of the maximum)")
    figure.suptitle(f'Target-aware masks of the teacher, {FORMS[form]}', fontsize=10)
    return finish(figure)


def draw_boxes(view: PairView, names: Optional[Sequence[str]] = None) -> np.ndarray:
    """Draw predictions of teacher and student side by side, ground truth dashed."""
    figure, axes = panels(view, 1, 2, side=4)
    sides = ('teacher', view.teacher, TEACHER), ('student', view.student, STUDENT)
    for ax, (side, predictions, colour) in zip(axes[0], sides):
        add_boxes(ax, view.objects, OBJECT, linestyle=(0, (3, 2)))
        add_predictions(ax, predictions, colour, names)
        count = len(predictions.sure().boxes)
        ax.set_title(f'{side}: {count} predictions, score >= {SURE}', fontsize=9)
    objects = {'ground truth (dashed)': OBJECT} if len(view.objects.boxes) else {}
    return finish(figure, teacher=TEACHER, student=STUDENT, **objects)


def draw_matches(view: PairView) -> np.ndarray:
    """Draw lines from the teacher's predictions to the student's that they are matched to."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import ConnectionPatch

    figure, axes = panels(view, 1, 2, side=4)
    costs = [cost for *_, cost in view.matches] or [0.0, 1.0]
    scale = ScalarMappable(Normalize(min(costs), max(costs)), 'viridis')
    sides = ('teacher', view.teacher, TEACHER), ('student', view.student, STUDENT)
    matched = []
    for number, (ax, (side, predictions, colour)) in enumerate(zip(axes[0], sides)):
        matched.append(predictions.pick([match[number] for match in view.matches]))
        add_boxes(ax, matched[-1], colour, linestyle=(0, (3, 2)))
        ax.set_title(f'{side}: {len(view.matches)} matched predictions', fontsize=9)
    places: Dict[str, Any] = dict(
        coordsA='data', coordsB='data', axesA=axes[0, 0], axesB=axes[0, 1]
    )
    for start, end, cost in zip(*(side.centres().tolist() for side in matched), costs):
        rgba = scale.to_rgba(cost)
        line = ConnectionPatch(start, end, lw=1.3, color=rgba, arrowstyle='-', **places)
        figure.add_artist(line)
    figure.colorbar(scale, ax=axes, shrink=0.8).set_label('matching cost (no unit)')
    figure.suptitle('Hungarian matching, last decoder stages', fontsize=10)
    return finish(figure)


def draw_references(view: PairView) -> np.ndarray:
    """Draw where the injected queries of the teacher start in the student's decoder."""
    assert view.references is not None
    figure, axes = panels(view, 1, 1, side=5)
    for kept, colour, marker, label in (
        (~view.assigned, '#FFFFFF', 'o', 'query for the background'),
        (view.assigned, TEACHER, '^', 'query with an object'),
    ):
        points = view.references[kept]
        style = dict(s=22, c=colour, marker=marker, edgecolors='black', lw=0.6)
        axes[0, 0].scatter(points[:, 0], points[:, 1], label=f'{label} ({len(points)})', **style)
    axes[0, 0].set_title("reference points of the teacher's queries in the student", fontsize=9)
    figure.legend(loc='outside lower center', ncols=2, fontsize=7)
    return finish(figure)


def draw_change(
    view: PairView, alone: Predictions, names: Optional[Sequence[str]] = None
) -> np.ndarray:
    """Draw the student alone and distilled, and the objects that only one of them finds.

    Objects are the ground truth, without one the teacher's sure predictions.
    """
    objects = view.objects if len(view.objects.boxes) else view.teacher.sure()
    before, after = found_objects(alone, objects), found_objects(view.student, objects)
    gained, lost = after & ~before, before & ~after
    figure, axes = panels(view, 1, 2, side=4)
    sides = ('alone', alone, before), ('distilled', view.student, after)
    for ax, (side, predictions, hits) in zip(axes[0], sides):
        add_predictions(ax, predictions, STUDENT, names)
        add_boxes(ax, objects.pick(gained), GAINED)
        add_boxes(ax, objects.pick(lost), LOST)
        ax.set_title(f'{side}: {int(hits.sum())} of {len(hits)} objects found', fontsize=9)
    changes = {
        f'found only distilled ({int(gained.sum())})': GAINED,
        f'found only alone ({int(lost.sum())})': LOST,
    }
    return finish(figure, prediction=STUDENT, **changes)

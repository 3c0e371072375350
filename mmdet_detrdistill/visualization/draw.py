"""Draw a `PairView` with Matplotlib; every function returns an (H, W, 3) uint8 RGB image."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .view import SURE, PairView, Predictions, found_objects

# Okabe and Ito
STUDENT, TEACHER, OBJECT, GAINED, LOST = '#0072B2', '#D55E00', '#F0E442', '#009E73', '#CC79A7'
FORMS = {'paper': 'form of the paper', 'released': 'form of the released code'}


def panels(view: PairView, rows: int, columns: int, side: float = 2.6) -> Tuple[Any, np.ndarray]:
    """A figure of images without axes; its data coordinates are [0, 1]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = view.image.shape[:2]
    size = (columns * side, rows * side * height / width + 0.8)
    figure = Figure(figsize=size, dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.imshow(view.image, extent=(0, 1, 1, 0), aspect=height / width)
        ax.set_xlim(0, 1)
        ax.set_ylim(1, 0)
        ax.set_xticks([])
        ax.set_yticks([])
    return figure, axes


def to_array(figure: Any) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def draw_masks(view: PairView, form: str = 'paper') -> np.ndarray:
    """Target-aware masks over the image: a row per teacher stage, a column per feature level."""
    stages = view.masks[form]
    figure, axes = panels(view, len(stages), len(view.strides), side=2.2)
    shown = None
    for row, stage in enumerate(stages):
        for column, mask in enumerate(stage):
            peak = float(mask.max())
            ax = axes[row, column]
            shown = ax.imshow(
                mask.numpy() / (peak or 1.0),
                extent=(0, 1, 1, 0),
                aspect=ax.get_aspect(),
                cmap='viridis',
                alpha=0.6,
                vmin=0,
                vmax=1,
            )
            ax.set_title(f'stage {row + 1}, stride {view.strides[column]}', fontsize=8)
            ax.set_xlabel(f'maximum {peak:.3g}', fontsize=7)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label("weight of a pixel's error (share of the maximum)")
    figure.suptitle(f'Target-aware masks of the teacher, {FORMS[form]}', fontsize=10)
    return to_array(figure)


def add_boxes(
    ax: Any, found: Predictions, colour: str, names: Optional[Sequence[str]], dashed: bool = False
) -> None:
    from matplotlib.patches import Rectangle

    for box, label, score in zip(found.boxes.tolist(), found.labels, found.scores):
        x1, y1, x2, y2 = box
        style = dict(linestyle=(0, (3, 2))) if dashed else {}
        ax.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, lw=1.4, **style)
        )
        if not dashed:
            name = names[int(label)] if names is not None else f'class {int(label)}'
            ax.text(
                x1,
                y1,
                f'{name} {float(score):.2f}',
                fontsize=6,
                color='white',
                va='bottom',
                clip_on=True,
                bbox=dict(facecolor=colour, edgecolor='none', pad=0.8),
            )


def legend(figure: Any, entries: Sequence[Tuple[str, Any]]) -> None:
    handles = [handle for _, handle in entries]
    labels = [label for label, _ in entries]
    figure.legend(handles, labels, loc='outside lower center', ncols=len(entries), fontsize=7)


def line(colour: str, dashed: bool = False) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, lw=1.6, linestyle='--' if dashed else '-')


def draw_boxes(view: PairView, names: Optional[Sequence[str]] = None) -> np.ndarray:
    """Predictions of teacher and student side by side, ground truth dashed.

    Args:
        names: class names of the student, in label order.
    """
    figure, axes = panels(view, 1, 2, side=4)
    for ax, who, found, colour in (
        (axes[0, 0], 'teacher', view.teacher, TEACHER),
        (axes[0, 1], 'student', view.student, STUDENT),
    ):
        add_boxes(ax, view.objects, OBJECT, names, dashed=True)
        add_boxes(ax, found.sure(), colour, names)
        ax.set_title(f'{who}: {len(found.sure().boxes)} predictions, score >= {SURE}', fontsize=9)
    entries = [('teacher', line(TEACHER)), ('student', line(STUDENT))]
    if len(view.objects.boxes):
        entries.append(('ground truth', line(OBJECT, dashed=True)))
    legend(figure, entries)
    return to_array(figure)


def match_lines(view: PairView) -> List[Tuple[Tuple[float, float], Tuple[float, float], float]]:
    """Centre of the teacher's box, centre of the student's box, cost, per drawn match."""

    def centre(boxes: Any, index: int) -> Tuple[float, float]:
        x1, y1, x2, y2 = boxes[index].tolist()
        return (x1 + x2) / 2, (y1 + y2) / 2

    return [
        (centre(view.teacher.boxes, teacher), centre(view.student.boxes, student), cost)
        for teacher, student, cost in view.matches
    ]


def draw_matches(view: PairView) -> np.ndarray:
    """Lines from the teacher's predictions to the student's that they are matched to."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import ConnectionPatch

    figure, axes = panels(view, 1, 2, side=4)
    left, right = axes[0]
    lines = match_lines(view)
    costs = [cost for _, _, cost in lines] or [0.0, 1.0]
    scale = ScalarMappable(Normalize(min(costs), max(costs)), 'viridis')
    rows = [pair[0] for pair in view.matches], [pair[1] for pair in view.matches]
    for ax, who, found, indices in (
        (left, 'teacher', view.teacher, rows[0]),
        (right, 'student', view.student, rows[1]),
    ):
        picked = Predictions(found.boxes[indices], found.labels[indices], found.scores[indices])
        add_boxes(ax, picked, TEACHER if who == 'teacher' else STUDENT, None, dashed=True)
        ax.set_title(f'{who}: {len(indices)} matched predictions', fontsize=9)
    for start, end, cost in lines:
        figure.add_artist(
            ConnectionPatch(
                start,
                end,
                'data',
                'data',
                axesA=left,
                axesB=right,
                lw=1.3,
                color=scale.to_rgba(cost),
                arrowstyle='-',
            )
        )
    bar = figure.colorbar(scale, ax=axes, shrink=0.8)
    bar.set_label('matching cost (no unit)')
    figure.suptitle('Hungarian matching, last decoder stages', fontsize=10)
    return to_array(figure)


def draw_references(view: PairView) -> np.ndarray:
    """Where the injected queries of the teacher start in the student's decoder.

    Raises:
        ValueError: the student's queries have no reference points, or nothing is injected.
    """
    if view.references is None:
        raise ValueError('no reference points: nothing is injected, or a DETR student has none')
    figure, axes = panels(view, 1, 1, side=5)
    entries = []
    for kept, colour, marker, label in (
        (~view.assigned, '#FFFFFF', 'o', 'query for the background'),
        (view.assigned, TEACHER, '^', 'query with an object'),
    ):
        points = view.references[kept]
        found = axes[0, 0].scatter(
            points[:, 0], points[:, 1], s=22, c=colour, marker=marker, edgecolors='black', lw=0.6
        )
        entries.append((f'{label} ({len(points)})', found))
    axes[0, 0].set_title("reference points of the teacher's queries in the student", fontsize=9)
    legend(figure, entries)
    return to_array(figure)


def draw_change(
    view: PairView, alone: Predictions, names: Optional[Sequence[str]] = None
) -> np.ndarray:
    """The student alone and distilled; what distillation found and what it lost.

    Objects are the ground truth, without one the teacher's sure predictions.

    Args:
        alone: predictions of the student that was trained alone.
        names: class names of the student, in label order.
    """
    from matplotlib.patches import Rectangle

    objects = view.objects if len(view.objects.boxes) else view.teacher.sure()
    before, after = found_objects(alone, objects), found_objects(view.student, objects)
    figure, axes = panels(view, 1, 2, side=4)
    for ax, who, found in ((axes[0, 0], 'alone', alone), (axes[0, 1], 'distilled', view.student)):
        add_boxes(ax, found.sure(), STUDENT, names)
        hit = found_objects(found, objects)
        ax.set_title(f'{who}: {int(hit.sum())} of {len(hit)} objects found', fontsize=9)
    for kept, colour in ((after & ~before, GAINED), (before & ~after, LOST)):
        for x1, y1, x2, y2 in objects.boxes[kept].tolist():
            for ax in axes.flat:
                ax.add_patch(
                    Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, lw=2.5)
                )
    legend(
        figure,
        [
            ('prediction', line(STUDENT)),
            (f'found only distilled ({int((after & ~before).sum())})', line(GAINED)),
            (f'found only alone ({int((before & ~after).sum())})', line(LOST)),
        ],
    )
    return to_array(figure)


def draw_all(
    view: PairView, names: Optional[Sequence[str]] = None, alone: Optional[Predictions] = None
) -> Dict[str, np.ndarray]:
    """Every image that there is something for, by name."""
    found = {f'masks_{form}': draw_masks(view, form) for form in view.masks}
    found['boxes'] = draw_boxes(view, names)
    found['matches'] = draw_matches(view)
    if view.references is not None:
        found['references'] = draw_references(view)
    if alone is not None:
        found['change'] = draw_change(view, alone, names)
    return found

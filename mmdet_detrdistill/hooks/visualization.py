"""Draw a distillation while it is trained."""

from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.visualization import MLflowVisBackend

from ..checkpoints.read import unwrap_model
from ..detectors.class_map import class_names
from ..registry import register
from .fixed_images import fixed_image


@register('HOOKS')
class PairPicturesHook(Hook):
    """Draw what is distilled in the same validation images, every `interval` iterations.

    Masks of both forms, boxes of teacher and student, matches, injected queries (see
    `visualization.draw_all`) go to each backend of MMEngine's visualizer: files, TensorBoard, W&B,
    MLflow. Modes and random numbers of the training stay as they are.

    Args:
        interval: iterations between two drawings.
        num_images: the first images of the validation set.

    Raises (before training):
        ValueError: not a distillation, or no validation data.
    """

    def __init__(self, interval: int = 500, num_images: int = 1) -> None:
        if interval < 1 or num_images < 1:
            raise ValueError(
                f'interval and num_images must be positive, got {interval} and {num_images}'
            )
        self.interval, self.num_images = interval, num_images

    def before_train(self, runner: Any) -> None:
        model = unwrap_model(runner.model)
        if not hasattr(model, 'teacher_adapter') or runner.val_loop is None:
            raise ValueError(
                'PairPicturesHook draws teacher and student on validation images: it needs '
                "model.type='DETRDistill' and a val_dataloader; remove it from the hooks otherwise"
            )

    @master_only
    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        from ..visualization import draw_all, view_pair  # needs Matplotlib

        model = unwrap_model(runner.model)
        dataset = runner.val_dataloader.dataset
        names = class_names(getattr(dataset, 'metainfo', None) or {})
        step = runner.iter + 1
        for index in range(min(self.num_images, len(dataset))):
            view = view_pair(model, fixed_image(dataset, index))
            for name, image in draw_all(view, names).items():
                for backend in runner.visualizer._vis_backends.values():
                    # MMEngine gives MLflow the name as that of a file: it needs step and ending
                    is_file = isinstance(backend, MLflowVisBackend)
                    title = f'{name}_{index}'
                    backend.add_image(f'{title}_{step}.png' if is_file else title, image, step)

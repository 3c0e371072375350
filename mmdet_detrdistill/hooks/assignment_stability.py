"""Log how much the student's assignment to the ground truth changes between epochs."""

from typing import Any, Dict, List

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from torch import Tensor

from ..checkpoints.read import unwrap_model
from ..detectors import DetectorAdapter, build_adapter
from ..functional.stability import instability, queries_of_objects
from ..registry import register
from .fixed_images import fixed_image

KEY = 'assignment_of_objects'


@register('HOOKS')
class AssignmentStabilityHook(Hook):
    """Log the share of objects that changed their query since the last epoch, per decoder stage.

    Source: DETRDistill, Fig. 7; see `functional.stability.instability`. Logged after every epoch
    from the second on, as `assignment/instability` (mean over the stages) and
    `assignment/instability_stage1`, ... in [0, 1]. In a distillation the student is measured, with
    its own queries; without one the detector.

    The same validation images are matched each time, in eval mode and without augmentation, so no
    random number of the training is consumed. Two-stage detectors, DINO and DDQ rank their queries
    in every image: there the index of a query is its rank, and the share stays high.

    Args:
        num_images: number of images, evenly spread over the validation set.

    Raises (before training):
        ValueError: the training does not count epochs, or has no validation data.
    """

    def __init__(self, num_images: int = 50) -> None:
        if num_images < 1:
            raise ValueError(f'num_images must be positive, got {num_images}')
        self.num_images = num_images

    def before_train(self, runner: Any) -> None:
        if not hasattr(runner.train_loop, 'max_epochs') or runner.val_loop is None:
            raise ValueError(
                'AssignmentStabilityHook compares epochs on validation images: it needs an '
                'EpochBasedTrainLoop and a val_dataloader; remove it from the hooks otherwise'
            )

    @master_only
    def after_train_epoch(self, runner: Any) -> None:
        model = unwrap_model(runner.model)
        before = runner.message_hub.runtime_info.get(KEY)  # part of a checkpoint: survives a resume
        after = self.match(model, runner.val_dataloader.dataset)
        runner.message_hub.update_info(KEY, after.tolist())
        if before is None:
            return
        shares = instability(torch.tensor(before), after).tolist()
        found: Dict[str, float] = {'assignment/instability': sum(shares) / len(shares)}
        for stage, share in enumerate(shares):
            found[f'assignment/instability_stage{stage + 1}'] = share
        runner.visualizer.add_scalars(found, step=runner.epoch + 1)
        stages = ', '.join(f'{share:.3f}' for share in shares)
        runner.logger.info(
            f'Assignment: {shares[-1]:.1%} of {after.shape[1]} objects changed their query since '
            f'the last epoch in the last stage (share per stage: {stages}).'
        )

    @torch.no_grad()
    def match(self, model: Any, dataset: Any) -> Tensor:
        """Return (L, M) int64, the query of each of the M objects in the chosen images."""
        adapter: DetectorAdapter = getattr(model, 'student_adapter', None) or build_adapter(model)
        count = min(self.num_images, len(dataset))
        training = model.training
        model.eval()
        found: List[Tensor] = []
        try:
            for index in range(count):
                place = index * len(dataset) // count
                data = fixed_image(dataset, place)
                batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
                batch = model.data_preprocessor(batch, training=False)
                sample = batch['data_samples'][0]
                forward = adapter.forward_pass(batch['inputs'], [sample])
                assignment = adapter.assign(forward.outputs, [sample])[:, 0]
                found.append(queries_of_objects(assignment, len(sample.gt_instances)).cpu())
        finally:
            model.train(training)
        return torch.cat(found, dim=1)

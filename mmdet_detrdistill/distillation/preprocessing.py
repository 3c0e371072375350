"""One batch for two detectors that were trained on differently preprocessed images."""

from typing import Any, Dict, List, Optional

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn

#: these normalise, reorder and pad, and do nothing else
PLAIN = (ImgDataPreprocessor, DetDataPreprocessor)


class Renormalise:
    """Turn the student's preprocessed batch into what the teacher's preprocessor would make of it.

    Undo the student's mean and std, reorder the channels, apply the teacher's, and fill the padding
    with the teacher's padding value. Exact but for rounding. The batch keeps its size.

    Args:
        student: settings of the preprocessor that made the batch, see `settings`.
        teacher: likewise of the teacher's own.
    """

    def __init__(self, student: Dict[str, Any], teacher: Dict[str, Any]) -> None:
        self.flip = student['bgr_to_rgb'] != teacher['bgr_to_rgb']
        mean, std = (torch.tensor(student[key]).view(-1, 1, 1) for key in ('mean', 'std'))
        if self.flip:
            mean, std = mean.flip(0), std.flip(0)
        teacher_mean, teacher_std = (
            torch.tensor(teacher[key]).view(-1, 1, 1) for key in ('mean', 'std')
        )
        self.scale = std / teacher_std
        self.shift = (mean - teacher_mean) / teacher_std
        self.pad_value = teacher['pad_value']

    def __call__(self, images: Tensor, samples: List[Any]) -> Tensor:
        """Renormalise images (B, C, H, W); the padding of an image begins at its `img_shape`."""
        if self.scale.device != images.device:
            self.scale, self.shift = self.scale.to(images.device), self.shift.to(images.device)
        if self.flip:
            images = images.flip(1)
        images = torch.addcmul(self.shift, images, self.scale)
        for image, sample in zip(images, samples):
            height, width = sample.metainfo['img_shape'][:2]
            image[:, height:] = self.pad_value
            image[:, :, width:] = self.pad_value
        return images


def settings(preprocessor: nn.Module) -> Dict[str, Any]:
    """Return what a preprocessor does to pixels: mean and std, channel order, padding value.

    Without normalisation mean is 0 and std 1.
    """
    values: Dict[str, Any] = {}
    for name, default in (('mean', 0.0), ('std', 1.0)):
        value = getattr(preprocessor, name, None)
        values[name] = [default] if value is None else torch.as_tensor(value).flatten().tolist()
    values['bgr_to_rgb'] = bool(getattr(preprocessor, '_channel_conversion', False))
    values['pad_value'] = float(getattr(preprocessor, 'pad_value', 0))
    return values


def renormalisation(student: nn.Module, teacher: nn.Module) -> Optional[Renormalise]:
    """Return the conversion of the student's batch to the teacher's; None if both are equal.

    Args:
        student: the data preprocessor that makes the batch.
        teacher: the teacher's.

    Raises:
        ValueError: they differ, and one of them may do more than normalise, reorder and pad.
    """
    made, wanted = settings(student), settings(teacher)
    differing = [key for key in made if made[key] != wanted[key]]
    if not differing:
        return None
    for side, preprocessor in (('student', student), ('teacher', teacher)):
        if type(preprocessor) not in PLAIN:
            listed = ', '.join(f'{key} is {made[key]} and {wanted[key]}' for key in differing)
            raise ValueError(
                f'student and teacher preprocess images differently: {listed}. The batch cannot be '
                f"turned into the teacher's, since the {side}'s {type(preprocessor).__name__} may "
                'do more than normalise: use DetDataPreprocessor on both sides'
            )
    return Renormalise(made, wanted)

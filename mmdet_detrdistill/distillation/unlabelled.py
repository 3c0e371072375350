"""Images without labels: a data set of them, and ground truth from the teacher's predictions."""

import os
import os.path as osp
from typing import Any, Dict, List, Optional, Tuple

from mmdet.datasets import BaseDetDataset, CocoDataset
from mmengine.structures import InstanceData
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..detectors import DetectorAdapter, ForwardPass
from ..detectors.class_map import ClassMap
from ..registry import register

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


@register('DATASETS')
class UnlabelledImages(BaseDetDataset):
    """Images of a folder, without annotations, for training beside a labelled data set or alone.

    Each sample's metainfo has `unlabelled=True`, so that `DETRDistill` takes the teacher's
    predictions as its ground truth. To mix it with labelled data put both into a `ConcatDataset`,
    with `MultiSourceSampler` (an `IterBasedTrainLoop`) where the ratio matters. Give it the
    labelled data's `metainfo` and a training pipeline; `LoadAnnotations` may stay in it.

    Args:
        data_root: prefix of the paths.
        data_prefix: `dict(img=FOLDER)`; searched with its subfolders.
        ann_file: file with one image path a line, relative to the folder; '' = every image.
        args, kwargs: as in `BaseDetDataset`.

    Raises:
        FileNotFoundError: no such folder or list, or no image in it.
        ValueError: a file that is no image, or `test_mode`: there is nothing to evaluate against.
    """

    METAINFO = CocoDataset.METAINFO  # a ConcatDataset wants it equal

    def __init__(self, *args: Any, test_mode: bool = False, **kwargs: Any) -> None:
        if test_mode:
            raise ValueError('UnlabelledImages cannot be evaluated: they have no ground truth')
        super().__init__(*args, test_mode=test_mode, **kwargs)

    def load_data_list(self) -> List[Dict[str, Any]]:
        """List the images with their sizes, in the order of their paths."""
        folder = self.data_prefix['img']
        if not osp.isdir(folder):
            raise FileNotFoundError(f'folder of unlabelled images {folder} does not exist')
        infos = []
        for name in self._names(folder):
            path = osp.join(folder, name)
            try:
                with Image.open(path) as image:
                    width, height = image.size
            except FileNotFoundError as error:
                raise FileNotFoundError(f'{self.ann_file} names {path}: no such file') from error
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f'unlabelled image {path} cannot be read: {error}') from error
            infos.append(dict(img_path=path, img_id=path, width=width, height=height, instances=[]))
        if not infos:
            raise FileNotFoundError(
                f'{self.ann_file or folder} holds no image ({", ".join(EXTENSIONS)})'
            )
        return infos

    def _names(self, folder: str) -> List[str]:
        if self.ann_file:
            with open(self.ann_file, encoding='utf-8') as file:
                return [line.strip() for line in file if line.strip()]
        found = (
            osp.relpath(osp.join(parent, name), folder)
            for parent, _, names in os.walk(folder, followlinks=True)
            for name in names
            if name.lower().endswith(EXTENSIONS)
        )
        return sorted(found)

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline and mark the sample."""
        data = super().prepare_data(idx)
        if data is not None:
            data['data_samples'].set_metainfo(dict(unlabelled=True))
        return data


def is_unlabelled(sample: Any) -> bool:
    """Tell whether a `DetDataSample` comes from `UnlabelledImages`."""
    return bool(sample.metainfo.get('unlabelled', False))


def without_objects(sample: Any) -> Any:
    """Copy a `DetDataSample`, without its ground truth's objects."""
    sample = sample.new()
    sample.gt_instances = sample.gt_instances[:0]
    return sample


class PseudoLabels:
    """Ground truth of unlabelled images from the teacher's confident predictions.

    Predictions pass through the teacher's own post-processing (`test_cfg.max_per_img` and what else
    its head does), so that no more boxes than its limit come back. An image without any is one
    without objects.

    Args:
        score_threshold: least score of a box, in [0, 1].
        task_loss: False = unlabelled images count in the distillation losses, and not in the
            student's own loss.

    Raises:
        ValueError: the threshold is outside [0, 1].
    """

    def __init__(self, score_threshold: float = 0.4, task_loss: bool = True) -> None:
        if not 0 <= score_threshold <= 1:
            raise ValueError(
                f'unlabelled.score_threshold must lie in [0, 1], got {score_threshold}'
            )
        self.score_threshold = score_threshold
        self.task_loss = task_loss

    def __call__(
        self,
        adapter: DetectorAdapter,
        forward: ForwardPass,
        samples: List[Any],
        class_map: Optional[ClassMap] = None,
    ) -> Tuple[List[Any], float]:
        """Label the unlabelled samples.

        Args:
            adapter: of the teacher.
            forward: its pass over the batch, with the head's outputs.
            samples: B `DetDataSample`s.
            class_map: from student to teacher labels; boxes of a class that the student lacks are
                dropped. None: the same classes.

        Returns:
            The samples, those without labels replaced by copies with `gt_instances` (`bboxes`
            (M, 4) xyxy in pixels of the resized image, `labels` (M,)); and the mean number of boxes
            that an unlabelled image got.
        """
        predictions = adapter.post_process(forward, samples)
        labelled, counts = [], []
        for sample, predicted in zip(samples, predictions):
            if is_unlabelled(sample):
                sample = sample.new()
                sample.gt_instances = self._objects(predicted, class_map)
                counts.append(len(sample.gt_instances))
            labelled.append(sample)
        return labelled, sum(counts) / max(len(counts), 1)

    def _objects(self, predicted: InstanceData, class_map: Optional[ClassMap]) -> InstanceData:
        keep = predicted.scores >= self.score_threshold
        labels: Tensor = predicted.labels
        if class_map is not None:
            labels = class_map.student_labels(labels)
            keep = keep & (labels >= 0)
        return InstanceData(bboxes=predicted.bboxes[keep].detach().float(), labels=labels[keep])

"""The key `unlabelled` of a config: a folder of images to train on beside the labelled ones."""

from typing import Any

from mmengine.config import Config, ConfigDict

from ..registry import class_of
from .coco_format import leaf_datasets

TYPE = 'UnlabelledImages'


def resolve_unlabelled(config: Config) -> None:
    """Join the images of `config.unlabelled` to the training data, with the same pipeline.

    Does nothing without the key, which is used up. It names the folder, or is a dict with arguments
    of `UnlabelledImages` (`data_prefix`, `ann_file`, `indices` ...). The sampler of the config sees
    labelled and unlabelled images alike: an epoch takes each once.

    Raises:
        ValueError: the training data's pipeline does not end in packed samples, as under a wrapper
            that mixes images: such a config has to name the data set `UnlabelledImages` itself.
    """
    found = config.get('unlabelled')
    if not found:
        return
    arguments = found if isinstance(found, dict) else dict(data_prefix=dict(img=found))
    loader = config.train_dataloader
    labelled = next(iter(leaf_datasets(loader.dataset)))
    steps = [str(step.get('type')) for step in labelled.get('pipeline') or []]
    if not steps or not steps[-1].endswith('PackDetInputs'):
        raise ValueError(
            f'unlabelled: the pipeline of the training data ends in {steps[-1:]}, not in '
            f'PackDetInputs: join a data set dict(type={TYPE!r}, ...) to it in the config'
        )
    known = getattr(class_of('DATASETS', labelled), 'METAINFO', {})
    unlabelled = dict(
        type=TYPE,
        metainfo={**known, **(labelled.get('metainfo') or {})},
        pipeline=labelled.pipeline,
        **arguments,
    )
    loader.dataset = ConfigDict(type='ConcatDataset', datasets=[loader.dataset, unlabelled])
    config.unlabelled = None


def without_unlabelled(dataset: Any) -> Any:
    """Take unlabelled images out of the config of a data set."""
    members = dataset.get('datasets') or []
    kept = [member for member in members if member.get('type') != TYPE]
    if len(kept) in (0, len(members)):
        return dataset
    return kept[0] if len(kept) == 1 else ConfigDict({**dataset, 'datasets': kept})

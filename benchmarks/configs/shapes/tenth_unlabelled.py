# The labelled tenth, and the other nine tenths without their labels. An epoch has as many images as
# in the other rows.
_base_ = './tenth_distilled.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CocoDataset',
        indices=80,
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=_base_.train_pipeline,
    )
)
unlabelled = dict(data_prefix=dict(img='data/shapes-96/train'), indices=list(range(80, 800)))

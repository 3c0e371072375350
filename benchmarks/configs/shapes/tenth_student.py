# Labels for a tenth of the training images, each of which comes ten times an epoch.
_base_ = './deformable-detr_student.py'

max_epochs = 12
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=10,
        dataset=dict(
            type='CocoDataset',
            indices=80,
            filter_cfg=dict(filter_empty_gt=False),
            pipeline=_base_.train_pipeline,
        ),
    )
)
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='LinearLR',
        start_factor=1.0,
        end_factor=0.01,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]

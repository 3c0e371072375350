# Data and schedule on the shapes set: cheap enough for one core to train every row of the study
# with three seeds, long enough for the student alone to converge.
_base_ = '../../../configs/_base_/deformable-detr_small_shapes.py'

max_epochs = 24
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
optim_wrapper = dict(optimizer=dict(fused=True))
param_scheduler = [  # a straight line to zero
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
# the longest trainings fall to zero with a cosine in place of the line
cosine = [
    param_scheduler[0],
    dict(
        type='CosineAnnealingLR', by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True
    ),
]
default_hooks = dict(
    _delete_=True,  # MMEngine's own defaults, without the stability hook
    logger=dict(type='LoggerHook', interval=25),
    checkpoint=dict(type='CheckpointHook', interval=3, max_keep_ckpts=1),
)

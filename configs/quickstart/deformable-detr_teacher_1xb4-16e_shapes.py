_base_ = '../_base_/deformable-detr_small_shapes.py'

max_epochs = 16
model = dict(
    num_queries=50,
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[64, 128, 256]),
    decoder=dict(num_layers=6),
)
train_dataloader = dict(batch_size=4)
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[13], gamma=0.1),
]

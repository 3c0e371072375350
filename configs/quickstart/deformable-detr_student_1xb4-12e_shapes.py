_base_ = '../_base_/deformable-detr_small_shapes.py'

max_epochs = 12
train_dataloader = dict(batch_size=4)
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[9], gamma=0.1),
]

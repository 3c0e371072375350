# Data and schedule on photographs, as squares of 192 pixels: with one image size there is
# no padding, and the frozen layers' maps of an image are the same in every batch.
_base_ = '../../../configs/_base_/deformable-detr_small_coco-format.py'

custom_imports = dict(imports=['mmdet_detrdistill', 'efficientnet_lite'])
data_root = 'data/aquarium'  # or any other set in COCO format
max_epochs = 32
resize = dict(type='Resize', scale=(192, 192), keep_ratio=False)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    resize,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=10, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3, fused=True),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
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
default_hooks = dict(
    _delete_=True,  # MMEngine's own defaults, without the stability hook
    logger=dict(type='LoggerHook', interval=25),
    checkpoint=dict(type='CheckpointHook', interval=4, max_keep_ckpts=1),
)
# those of configs/_base_/detrdistill_paper.py, which cannot be a base too: both have custom_imports
distiller = dict(
    type='DETRDistiller',
    distill_losses=dict(
        loss_logits_kd=dict(type='LogitsKDLoss', loss_weight=1.0),
        loss_feature_kd=dict(type='FeatureKDLoss', loss_weight=1.0),
        loss_assign_kd=dict(type='AssignKDLoss', loss_weight=1.0),
    ),
)

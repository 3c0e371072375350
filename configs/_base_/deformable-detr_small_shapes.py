# The shapes set of tools/make_shapes.py, for the small Deformable DETR.
# Another place: --cfg-options data_root=FOLDER (see coco_format.py of the package).
_base_ = './deformable-detr_small.py'

coco_format = True
data_root = 'data/shapes'
train_ann, train_img = 'annotations/instances_train.json', 'train/'
val_ann, val_img = 'annotations/instances_val.json', 'val/'
classes = ('circle', 'hexagon', 'ring', 'frame', 'square', 'triangle', 'star', 'cross')

resize = dict(type='Resize', scale=(96, 96), keep_ratio=True)
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
train_dataloader = dict(
    batch_size=8,
    num_workers=0,  # loading an image takes a millisecond
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        ann_file=train_ann,
        data_prefix=dict(img=train_img),
        metainfo=dict(classes=classes),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        ann_file=val_ann,
        data_prefix=dict(img=val_img),
        metainfo=dict(classes=classes),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/' + val_ann, classwise=True)
test_evaluator = val_evaluator
model = dict(num_queries=50, bbox_head=dict(num_classes=8), test_cfg=dict(max_per_img=30))
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))

# COCO-format data anywhere, for the small Deformable DETR: images shrunk to 256 pixels.
#   --cfg-options data_root=FOLDER train_ann=FILE train_img=FOLDER val_ann=FILE val_img=FOLDER
# The classes are those of the training file; with classes="[a,b]" only some of them.
_base_ = './deformable-detr_small.py'

coco_format = True
data_root = 'data/coco_format'
train_ann, train_img = 'annotations/instances_train.json', 'train/'
val_ann, val_img = 'annotations/instances_val.json', 'val/'
classes = None

resize = dict(type='Resize', scale=(256, 256), keep_ratio=True)
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
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        ann_file=train_ann,
        data_prefix=dict(img=train_img),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        ann_file=val_ann,
        data_prefix=dict(img=val_img),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/' + val_ann, classwise=True)
test_evaluator = val_evaluator
model = dict(test_cfg=dict(max_per_img=100))

# A teacher for your own COCO-format data: twice the student's backbone width, twice its decoder.
#   python tools/train.py configs/coco_format/deformable-detr_teacher_1xb4-24e_coco-format.py \
#     --cfg-options data_root=FOLDER
# All three at once: python tools/quickstart.py --data-root FOLDER
# Status: an example, not measured with several seeds.
_base_ = '../_base_/deformable-detr_small_coco-format.py'

max_epochs = 24
model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[64, 128, 256]),
    decoder=dict(num_layers=6),
)
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[20], gamma=0.1),
]

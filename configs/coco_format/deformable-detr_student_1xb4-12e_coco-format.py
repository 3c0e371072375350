# A small student for your own COCO-format data, trained alone: the baseline of the distilled one.
#   python tools/train.py configs/coco_format/deformable-detr_student_1xb4-12e_coco-format.py \
#     --cfg-options data_root=FOLDER
# All three at once: python tools/quickstart.py --data-root FOLDER
# Status: an example, not measured with several seeds.
_base_ = '../_base_/deformable-detr_small_coco-format.py'

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[10], gamma=0.1),
]

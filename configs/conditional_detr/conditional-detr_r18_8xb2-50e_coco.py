# Conditional DETR with ResNet-18, the student alone.
#
# Train:
#   mim train mmdet_detrdistill conditional-detr_r18_8xb2-50e_coco.py \
#     --gpus 8 --launcher pytorch
# Expect: AP 35.8, published (DETRDistill, Table 10). Status: not run here.
_base_ = 'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py'
model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[512]),
)

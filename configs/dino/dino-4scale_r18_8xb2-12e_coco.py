# DINO 4-scale with ResNet-18, the student alone.
#
# Train:
#   mim train mmdet_detrdistill dino-4scale_r18_8xb2-12e_coco.py \
#     --gpus 8 --launcher pytorch
# Expect: nothing published for this student. Status: not run here.
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[128, 256, 512]),
)

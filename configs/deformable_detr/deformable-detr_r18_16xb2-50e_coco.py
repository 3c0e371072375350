# Deformable DETR with ResNet-18, the student alone.
#
# Train:
#   mim train mmdet_detrdistill deformable-detr_r18_16xb2-50e_coco.py \
#     --gpus 8 --launcher pytorch \
#     --cfg-options train_dataloader.batch_size=4  # 8 x 4 = 16 x 2 images
# Expect: AP 40.0, published (DETRDistill, Table 10). Status: not run here.
_base_ = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'
model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[128, 256, 512]),
)

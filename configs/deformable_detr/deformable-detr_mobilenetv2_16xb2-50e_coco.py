# Deformable DETR with MobileNetV2, the student alone.
#
# Train:
#   mim train mmdet_detrdistill deformable-detr_mobilenetv2_16xb2-50e_coco.py \
#     --gpus 8 --launcher pytorch \
#     --cfg-options train_dataloader.batch_size=4  # 8 x 4 = 16 x 2 images
# Expect: AP 38.8, published (DETRDistill, Table 10). Status: not run here.
_base_ = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(2, 4, 6),  # strides 8, 16, 32
        frozen_stages=2,  # up to stride 4, as frozen_stages=1 of a ResNet
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://mmdet/mobilenet_v2'),
    ),
    neck=dict(in_channels=[32, 96, 320]),
)

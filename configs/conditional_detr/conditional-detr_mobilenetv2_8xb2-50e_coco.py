# Conditional DETR with MobileNetV2, the student alone.
#
# Train:
#   mim train mmdet_detrdistill conditional-detr_mobilenetv2_8xb2-50e_coco.py \
#     --gpus 8 --launcher pytorch
# Expect: AP 33.7, published (DETRDistill, Table 10). Status: not run here.
_base_ = 'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(6,),  # stride 32, our choice: the paper does not say
        frozen_stages=2,  # up to stride 4, as frozen_stages=1 of a ResNet
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://mmdet/mobilenet_v2'),
    ),
    neck=dict(in_channels=[320]),
)

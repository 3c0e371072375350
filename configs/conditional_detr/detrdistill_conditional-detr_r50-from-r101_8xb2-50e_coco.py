# DETRDistill: Conditional DETR R101 -> R50, 50 epochs.
#
# Teacher (no public MMDetection checkpoint known; train it once):
#   mim train mmdet conditional-detr_r50_8xb2-50e_coco.py \
#     --gpus 8 --launcher pytorch --work-dir work_dirs/conditional-detr_r101_8xb2-50e_coco \
#     --cfg-options model.backbone.depth=101 \
#       model.backbone.init_cfg.checkpoint=torchvision://resnet101
# Distil:
#   mim train mmdet_detrdistill \
#     detrdistill_conditional-detr_r50-from-r101_8xb2-50e_coco.py \
#     --gpus 8 --launcher pytorch
# Expect: AP 42.9 (teacher 42.4, student alone 40.7), published (DETRDistill, Table 3).
# Status: not run here.
_base_ = [
    'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
    '../_base_/detrdistill_paper.py',
]

model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher=dict(
        cfg_path='mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
        options={'backbone.depth': 101, 'backbone.init_cfg': None},
    ),
    teacher_ckpt='work_dirs/conditional-detr_r101_8xb2-50e_coco/epoch_50.pth',
    distiller=_base_.distiller,
)

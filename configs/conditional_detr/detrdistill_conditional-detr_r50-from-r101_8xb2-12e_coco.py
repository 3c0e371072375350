# DETRDistill: Conditional DETR R101 6/6 -> R50 with 6 encoder / 6 decoder layers, 12 epochs.
#
# Teacher (no public MMDetection checkpoint known; train it once):
#   mim train mmdet_detrdistill conditional-detr_r50_8xb2-12e_coco.py \
#     --gpus 8 --launcher pytorch --work-dir work_dirs/conditional-detr_r101_8xb2-12e_coco \
#     --cfg-options model.backbone.depth=101 \
#       model.backbone.init_cfg.checkpoint=torchvision://resnet101
# Distil:
#   mim train mmdet_detrdistill \
#     detrdistill_conditional-detr_r50-from-r101_8xb2-12e_coco.py \
#     --gpus 8 --launcher pytorch
# Expect: AP 38.1 (teacher 36.2, student alone 33.0), published (DETRDistill, Table 4).
# Status: not run here.
_base_ = [
    './conditional-detr_r50_8xb2-12e_coco.py',
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
    teacher_ckpt='work_dirs/conditional-detr_r101_8xb2-12e_coco/epoch_12.pth',
    distiller=_base_.distiller,
)

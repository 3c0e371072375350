# DETRDistill: DINO 4-scale R101 -> R18, 12 epochs.
#
# Teacher (no public MMDetection checkpoint known; train it once):
#   mim train mmdet dino-4scale_r50_8xb2-12e_coco.py \
#     --gpus 8 --launcher pytorch --work-dir work_dirs/dino-4scale_r101_8xb2-12e_coco \
#     --cfg-options model.backbone.depth=101 \
#       model.backbone.init_cfg.checkpoint=torchvision://resnet101
# Distil:
#   mim train mmdet_detrdistill \
#     detrdistill_dino-4scale_r18-from-r101_8xb2-12e_coco.py \
#     --gpus 8 --launcher pytorch
# Expect: nothing published for this pair by DETRDistill.
# Status: not run here.
_base_ = [
    './dino-4scale_r18_8xb2-12e_coco.py',
    '../_base_/detrdistill_paper.py',
]

model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher=dict(
        cfg_path='mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
        options={'backbone.depth': 101, 'backbone.init_cfg': None},
    ),
    teacher_ckpt='work_dirs/dino-4scale_r101_8xb2-12e_coco/epoch_12.pth',
    distiller=_base_.distiller,
)

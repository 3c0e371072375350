# DETRDistill: DETR R101 (500 epochs) -> R50 (150 epochs).
#
# Teacher (no public MMDetection checkpoint known; train it once):
#   mim train mmdet detr_r101_8xb2-500e_coco.py \
#     --gpus 8 --launcher pytorch --work-dir work_dirs/detr_r101_8xb2-500e_coco
# Distil:
#   mim train mmdet_detrdistill \
#     detrdistill_detr_r50-from-r101_8xb2-150e_coco.py \
#     --gpus 8 --launcher pytorch
# Expect: nothing published for this pair by DETRDistill.
# Status: not run here.
_base_ = [
    'mmdet::detr/detr_r50_8xb2-150e_coco.py',
    '../_base_/detrdistill_paper.py',
]

model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher=dict(
        cfg_path='mmdet::detr/detr_r101_8xb2-500e_coco.py', options={'backbone.init_cfg': None}
    ),
    teacher_ckpt='work_dirs/detr_r101_8xb2-500e_coco/epoch_500.pth',
    distiller=_base_.distiller,
)

# DETRDistill: Deformable DETR R101 -> R18, 50 epochs.
#
# Teacher (no public MMDetection checkpoint known; train it once):
#   mim train mmdet deformable-detr_r50_16xb2-50e_coco.py \
#     --gpus 8 --launcher pytorch --work-dir work_dirs/deformable-detr_r101_16xb2-50e_coco \
#     --cfg-options model.backbone.depth=101 train_dataloader.batch_size=4 \
#       model.backbone.init_cfg.checkpoint=torchvision://resnet101
# Distil:
#   mim train mmdet_detrdistill \
#     detrdistill_deformable-detr_r18-from-r101_16xb2-50e_coco.py \
#     --gpus 8 --launcher pytorch \
#     --cfg-options train_dataloader.batch_size=4  # 8 x 4 = 16 x 2 images
# Expect: AP 43.3 (teacher 45.5, student alone 40.0), published (DETRDistill, Table 10).
# Status: not run here.
_base_ = [
    './deformable-detr_r18_16xb2-50e_coco.py',
    '../_base_/detrdistill_paper.py',
]

model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher=dict(
        cfg_path='mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        options={'backbone.depth': 101, 'backbone.init_cfg': None},
    ),
    teacher_ckpt='work_dirs/deformable-detr_r101_16xb2-50e_coco/epoch_50.pth',
    distiller=_base_.distiller,
)

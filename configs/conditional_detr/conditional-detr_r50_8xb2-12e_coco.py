# Conditional DETR R50 on a short schedule, the student alone.
#
# Train:
#   mim train mmdet_detrdistill conditional-detr_r50_8xb2-12e_coco.py \
#     --gpus 8 --launcher pytorch
# Expect: AP 33.0, published (DETRDistill, Table 4). Status: not run here.
# The paper says "short schedule": 12 epochs and the step at 11 are our reading of it.
_base_ = 'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py'
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='MultiStepLR', end=max_epochs, milestones=[11])]

# Conditional DETR R50 with 6 encoder and 3 decoder layers on 12 epochs, the student alone.
#
# Train:
#   mim train mmdet_detrdistill conditional-detr_r50-6enc3dec_8xb2-12e_coco.py \
#     --gpus 8 --launcher pytorch
# Expect: AP 30.3, published (DETRDistill, Table 4). Status: not run here.
_base_ = './conditional-detr_r50_8xb2-12e_coco.py'
model = dict(decoder=dict(num_layers=3))

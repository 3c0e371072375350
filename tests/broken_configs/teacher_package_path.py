# Reason: teacher config mmdet::detr/detr_r51.py
_base_ = './_base_/good.py'
model = dict(teacher='mmdet::detr/detr_r51.py')

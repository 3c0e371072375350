# The teacher with a cosine schedule.
_base_ = './conditional-detr_teacher.py'

param_scheduler = _base_.cosine

# The student with a cosine schedule.
_base_ = './conditional-detr_student.py'

param_scheduler = _base_.cosine

# The student with a cosine schedule.
_base_ = './dab-detr_student.py'

param_scheduler = _base_.cosine

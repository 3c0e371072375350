# The distilled student with a cosine schedule.
_base_ = './dab-detr_distilled.py'

param_scheduler = _base_.cosine

# The teacher: twice the backbone width of the student, the same transformer, the same schedule.
_base_ = './deformable-detr_base.py'

model = dict(backbone=dict(base_channels=32), neck=dict(in_channels=[64, 128, 256]))

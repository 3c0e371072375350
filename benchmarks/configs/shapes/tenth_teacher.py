# A teacher that knows the labels of a tenth of the images only.
_base_ = './tenth_student.py'

model = dict(backbone=dict(base_channels=32), neck=dict(in_channels=[64, 128, 256]))

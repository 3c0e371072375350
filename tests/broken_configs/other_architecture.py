# Reason: checkpoint teacher.pth does not fit the teacher, DeformableDETR
_base_ = './_base_/good.py'
model = dict(teacher=dict(decoder=dict(num_layers=3)))

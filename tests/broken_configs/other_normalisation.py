# Reason: student and teacher preprocess images differently: mean is [123.67
_base_ = './_base_/good.py'
model = dict(teacher=dict(data_preprocessor=dict(mean=[0.0, 0.0, 0.0])))

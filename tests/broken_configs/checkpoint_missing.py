# Reason: teacher_ckpt is missing
_base_ = './_base_/good.py'
model = dict(teacher_ckpt=None)

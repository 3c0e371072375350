# Reason: checkpoint work_dirs/teacher/epoch_50.pth does not exist
_base_ = './_base_/good.py'
model = dict(teacher_ckpt='work_dirs/teacher/epoch_50.pth')

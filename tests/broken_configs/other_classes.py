# Reason: the student has 3 classes, the teacher 5
_base_ = './_base_/good.py'
model = dict(teacher=dict(bbox_head=dict(num_classes=5)), teacher_ckpt='other_classes.pth')

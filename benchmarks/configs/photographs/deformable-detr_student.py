# The student, trained alone: the baseline of every distilled row.
_base_ = './deformable-detr_base.py'

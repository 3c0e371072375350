# The student, trained alone: the baseline of every distilled row.
_base_ = './conditional-detr_base.py'

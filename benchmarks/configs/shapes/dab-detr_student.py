# The student, trained alone: the baseline of every distilled row.
_base_ = './dab-detr_base.py'

# The student, trained alone: the baseline of every distilled row.
_base_ = './dino_base.py'

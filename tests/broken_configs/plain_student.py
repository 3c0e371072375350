# Reason: not a distillation config: model.type is not 'DETRDistill'
_base_ = './_base_/student.py'

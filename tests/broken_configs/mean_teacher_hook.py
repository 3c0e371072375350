# Reason: MeanTeacherHook needs model.semi_train_cfg, which neither DETRDistill nor its student
_base_ = './_base_/good.py'
custom_hooks = [dict(type='TeacherCheckHook'), dict(type='MeanTeacherHook')]

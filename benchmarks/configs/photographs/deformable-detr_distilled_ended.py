# The distilled student, with distillation ended for the last quarter of its schedule.
_base_ = './deformable-detr_distilled.py'

end = 24
custom_hooks = [
    dict(type='TeacherCheckHook'),
    dict(
        type='LossWeightScheduleHook',
        factors=dict(
            loss_logits_kd=[(end, 1), (end, 0)],
            loss_feature_kd=[(end, 1), (end, 0)],
            loss_assign_kd=[(end, 1), (end, 0)],
        ),
    ),
]

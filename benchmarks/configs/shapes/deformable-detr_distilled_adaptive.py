# The distilled student, each loss held at half the pull of the task loss.
_base_ = './deformable-detr_distilled.py'

custom_hooks = [
    dict(type='TeacherCheckHook'),
    dict(
        type='AdaptiveLossWeightHook',
        shares=dict(loss_logits_kd=0.5, loss_feature_kd=0.5, loss_assign_kd=0.5),
    ),
]

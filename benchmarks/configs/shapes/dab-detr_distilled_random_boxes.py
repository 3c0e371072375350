# The student, distilled by the aligned loss alone, on random boxes too.
_base_ = './dab-detr_distilled.py'

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_logits_kd=None,
            loss_feature_kd=None,
            loss_assign_kd=None,
            loss_aligned_kd=dict(
                type='AlignedKDLoss',
                injection=[dict(type='auto'), dict(type='RandomBoxInjection', num_queries=30)],
            ),
        )
    )
)

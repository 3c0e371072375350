# The three losses of DETRDistill, in the paper's form. Switch a loss off with None; options and
# presets: the modules in mmdet_detrdistill/losses.
custom_imports = dict(imports=['mmdet_detrdistill'], allow_failed_imports=False)
custom_hooks = [dict(type='TeacherCheckHook')]
distiller = dict(
    type='DETRDistiller',
    distill_losses=dict(
        loss_logits_kd=dict(type='LogitsKDLoss', loss_weight=1.0),
        loss_feature_kd=dict(type='FeatureKDLoss', loss_weight=1.0),
        loss_assign_kd=dict(type='AssignKDLoss', loss_weight=1.0),
    ),
)

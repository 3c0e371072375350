# What a distillation config needs beside student and teacher: the package, the check of the
# teacher, the recommended loss. The losses of the paper: detrdistill_paper.py.
custom_imports = dict(imports=['mmdet_detrdistill'], allow_failed_imports=False)
custom_hooks = [dict(type='TeacherCheckHook')]
distiller = dict(
    type='DETRDistiller',
    distill_losses=dict(loss_aligned_kd=dict(type='AlignedKDLoss', loss_weight=1.0)),
)

# The student, distilled: same schedule, seed and batches as alone. Losses and hook are those of
# configs/_base_/detrdistill_paper.py, which cannot be a second base: both have custom_imports.
_base_ = './dino_student.py'

custom_hooks = [dict(type='TeacherCheckHook')]
model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher='{{ fileDirname }}/dino_teacher.py',
    teacher_ckpt='work_dirs/study/aquarium-dino/teacher-seed0-v1/epoch_32.pth',
    distiller=dict(
        type='DETRDistiller',
        distill_losses=dict(
            loss_logits_kd=dict(type='LogitsKDLoss', loss_weight=1.0),
            loss_feature_kd=dict(type='FeatureKDLoss', loss_weight=1.0),
            loss_assign_kd=dict(type='AssignKDLoss', loss_weight=1.0),
        ),
    ),
)

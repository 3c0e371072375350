# The student, distilled: same schedule, seed and batches as alone.
_base_ = './deformable-detr_student.py'

custom_hooks = [dict(type='TeacherCheckHook')]
model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher='{{ fileDirname }}/deformable-detr_teacher.py',
    teacher_ckpt='work_dirs/study/bccd-deformable/teacher-seed0-v1/epoch_32.pth',
    distiller=_base_.distiller,
)

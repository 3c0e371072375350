# The student, distilled on the labelled tenth; same batches as alone.
_base_ = ['./tenth_student.py', '../../../configs/_base_/detrdistill_paper.py']

model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher='{{ fileDirname }}/deformable-detr_teacher.py',
    teacher_ckpt='work_dirs/study/shapes-tenth/teacher-seed0-v1/epoch_12.pth',
    distiller=_base_.distiller,
)

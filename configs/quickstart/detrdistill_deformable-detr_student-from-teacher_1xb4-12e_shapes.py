_base_ = ['./deformable-detr_student_1xb4-12e_shapes.py', '../_base_/detrdistill.py']

model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher='{{ fileDirname }}/deformable-detr_teacher_1xb4-16e_shapes.py',
    teacher_ckpt='work_dirs/deformable-detr_teacher_1xb4-16e_shapes/epoch_16.pth',
    distiller=_base_.distiller,
)

# The quickstart's student, distilled: same schedule and seed as alone.
# Teacher: python tools/train.py configs/quickstart/deformable-detr_teacher_1xb8-10e_shapes.py
#   python tools/train.py \
#     configs/quickstart/detrdistill_deformable-detr_student-from-teacher_1xb8-6e_shapes.py
# Status: measured here by `make quickstart`; the figures are in the README.
_base_ = ['./deformable-detr_student_1xb8-6e_shapes.py', '../_base_/detrdistill.py']

model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher='{{ fileDirname }}/deformable-detr_teacher_1xb8-10e_shapes.py',
    teacher_ckpt='work_dirs/deformable-detr_teacher_1xb8-10e_shapes/epoch_10.pth',
    distiller=_base_.distiller,
)

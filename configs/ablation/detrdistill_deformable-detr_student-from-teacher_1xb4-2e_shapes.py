# The same student, distilled from the quickstart's teacher; tools/ablation.py changes one option of
# a loss at a time.
# Teacher: python tools/train.py configs/quickstart/deformable-detr_teacher_1xb4-10e_shapes.py
#   python tools/train.py \
#     configs/ablation/detrdistill_deformable-detr_student-from-teacher_1xb4-2e_shapes.py
# Status: measured here by tools/ablation.py; the figures are in docs/ablation.md.
_base_ = ['./deformable-detr_student_1xb4-2e_shapes.py', '../_base_/detrdistill.py']

model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher='{{ fileDirname }}/../quickstart/deformable-detr_teacher_1xb4-10e_shapes.py',
    teacher_ckpt='work_dirs/deformable-detr_teacher_1xb4-10e_shapes/epoch_10.pth',
    distiller=_base_.distiller,
)

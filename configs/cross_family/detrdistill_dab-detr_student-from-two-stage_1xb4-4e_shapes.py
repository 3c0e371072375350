# The DAB-DETR student, distilled from the two-stage Deformable DETR: the teacher's boxes enter the
# student's decoder as anchors.
# Teacher: python tools/train.py \
#     configs/cross_family/deformable-detr-two-stage_teacher_1xb4-6e_shapes.py
#   python tools/train.py \
#     configs/cross_family/detrdistill_dab-detr_student-from-two-stage_1xb4-4e_shapes.py
# Status: measured here; the figures are in docs/ablation.md.
_base_ = ['./dab-detr_student_1xb4-4e_shapes.py', '../_base_/detrdistill.py']

model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher='{{ fileDirname }}/deformable-detr-two-stage_teacher_1xb4-6e_shapes.py',
    teacher_ckpt='work_dirs/deformable-detr-two-stage_teacher_1xb4-6e_shapes/epoch_6.pth',
    distiller=_base_.distiller,
)

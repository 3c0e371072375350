# The small student, distilled on your own COCO-format data: schedule and seed as alone.
# Teacher:
#   python tools/train.py configs/coco_format/deformable-detr_teacher_1xb4-24e_coco-format.py \
#     --cfg-options data_root=FOLDER
# Distil:
#   python tools/train.py \
#     configs/coco_format/detrdistill_deformable-detr_student-from-teacher_1xb4-12e_coco-format.py \
#     --cfg-options data_root=FOLDER
# All three at once: python tools/quickstart.py --data-root FOLDER
# Status: an example, not measured with several seeds; docs/results.md has pairs on real images.
_base_ = ['./deformable-detr_student_1xb4-12e_coco-format.py', '../_base_/detrdistill.py']

model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher='{{ fileDirname }}/deformable-detr_teacher_1xb4-24e_coco-format.py',
    teacher_ckpt='work_dirs/deformable-detr_teacher_1xb4-24e_coco-format/epoch_24.pth',
    distiller=_base_.distiller,
)

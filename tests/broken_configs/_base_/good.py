# What each broken config breaks in one place. teacher.pth fits and names the same classes.
_base_ = ['./student.py', '../../../configs/_base_/detrdistill_paper.py']
model = dict(
    _delete_=True,
    type='DETRDistill',
    architecture=_base_.model,
    teacher=_base_.model,
    teacher_ckpt='teacher.pth',
    distiller=_base_.distiller,
)

# The quickstart's student, trained alone: the baseline of the distilled one.
#   python tools/train.py configs/quickstart/deformable-detr_student_1xb8-6e_shapes.py
# Status: measured here by `make quickstart`; the figures are in the README.
_base_ = '../_base_/deformable-detr_small_shapes.py'

max_epochs = 6
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[5], gamma=0.1),
]

# The quickstart's teacher: twice the backbone width, twice the decoder layers of the student.
#   python tools/train.py configs/quickstart/deformable-detr_teacher_1xb8-10e_shapes.py
# Status: measured here by `make quickstart`; the figures are in the README.
_base_ = '../_base_/deformable-detr_small_shapes.py'

max_epochs = 10
model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[64, 128, 256]),
    decoder=dict(num_layers=6),
)
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [  # a straight line to zero: a steadier teacher than one step down
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='LinearLR',
        start_factor=1.0,
        end_factor=0.01,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]

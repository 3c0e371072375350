# The quickstart's student on a schedule that can be afforded dozens of times: two epochs of 500
# images. The row `alone` of tools/ablation.py.
#   python tools/train.py configs/ablation/deformable-detr_student_1xb4-2e_shapes.py
# Status: measured here by tools/ablation.py; the figures are in docs/ablation.md.
_base_ = '../quickstart/deformable-detr_student_1xb4-6e_shapes.py'

max_epochs = 2
train_dataloader = dict(dataset=dict(indices=500))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [  # a straight line to zero: short runs end less noisy than after one step down
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

# A DAB-DETR student for a teacher of another family, trained alone: the baseline.
#   python tools/train.py configs/cross_family/dab-detr_student_1xb4-4e_shapes.py
# Status: measured here by tools/ablation.py; the figures are in docs/ablation.md.
_base_ = '../_base_/dab-detr_small_shapes.py'

max_epochs = 4
train_dataloader = dict(dataset=dict(indices=500))  # short: each row is trained three times
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
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

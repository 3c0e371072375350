# Reason: it has no pre_transformer, forward_encoder, pre_decoder, forward_decoder. Register an
_base_ = './_base_/good.py'
model = dict(
    architecture=dict(
        _delete_=True,
        type='RetinaNet',
        backbone=dict(type='ResNet', depth=18, base_channels=8),
        neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
        bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=16, feat_channels=16),
    )
)

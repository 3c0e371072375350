# Reason: no feature level of equal stride: the student has strides
_base_ = './_base_/good.py'
one_level = dict(num_levels=1)
model = dict(
    architecture=dict(
        num_feature_levels=1,
        backbone=dict(out_indices=(3,)),
        neck=dict(in_channels=[64], num_outs=1),
        encoder=dict(layer_cfg=dict(self_attn_cfg=one_level)),
        decoder=dict(layer_cfg=dict(cross_attn_cfg=one_level)),
    ),
    teacher=dict(
        num_feature_levels=1,
        backbone=dict(out_indices=(1,)),
        neck=dict(in_channels=[16], num_outs=1),
        encoder=dict(layer_cfg=dict(self_attn_cfg=one_level)),
        decoder=dict(layer_cfg=dict(cross_attn_cfg=one_level)),
    ),
    teacher_ckpt='no_shared_stride.pth',
)

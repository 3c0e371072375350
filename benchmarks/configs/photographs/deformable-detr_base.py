# Deformable DETR on a pretrained EfficientNet-Lite, frozen up to stride 16.
_base_ = './square_192.py'

model = dict(
    num_queries=60,
    num_feature_levels=3,
    data_preprocessor=dict(mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0]),
    backbone=dict(_delete_=True, type='EfficientNetLite', variant=0),
    neck=dict(in_channels=[40, 112, 320], num_outs=3),
    encoder=dict(layer_cfg=dict(self_attn_cfg=dict(num_levels=3))),
    decoder=dict(layer_cfg=dict(cross_attn_cfg=dict(num_levels=3))),
    test_cfg=dict(max_per_img=60),
)

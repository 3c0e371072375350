# A tiny Deformable DETR for images of cats, dogs and buses.
_base_ = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'

width = 64
model = dict(
    num_queries=12,
    backbone=dict(depth=18, base_channels=8, frozen_stages=-1, init_cfg=None),
    neck=dict(in_channels=[16, 32, 64], out_channels=width),
    encoder=dict(
        num_layers=1,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=width),
            ffn_cfg=dict(embed_dims=width, feedforward_channels=width),
        ),
    ),
    decoder=dict(
        num_layers=2,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=width),
            cross_attn_cfg=dict(embed_dims=width),
            ffn_cfg=dict(embed_dims=width, feedforward_channels=width),
        ),
    ),
    positional_encoding=dict(num_feats=width // 2),
    bbox_head=dict(embed_dims=width, num_classes=3),
    test_cfg=dict(max_per_img=30),
)
train_dataloader = dict(dataset=dict(metainfo=dict(classes=('cat', 'dog', 'bus'))))

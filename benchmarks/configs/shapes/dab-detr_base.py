# DAB-DETR with one encoder and three decoder layers. Width, learning rate, loss weights and the
# single feature map of stride 8 (images are small) are those of the Conditional DETR beside it.
_base_ = './shapes_96.py'

width = 256
ffn = dict(
    embed_dims=width,
    feedforward_channels=512,
    num_fcs=2,
    ffn_drop=0.0,
    act_cfg=dict(type='PReLU'),
)
attention = dict(embed_dims=width, num_heads=8, attn_drop=0.0, proj_drop=0.0)
model = dict(
    _delete_=True,
    type='DABDETR',
    num_queries=30,
    num_patterns=0,
    with_random_refpoints=False,
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=16,
        num_stages=3,
        out_indices=(2,),
        strides=(1, 2, 1),
        dilations=(1, 1, 2),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
    ),
    neck=dict(
        type='ChannelMapper',
        in_channels=[64],
        kernel_size=1,
        out_channels=width,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=32),
        num_outs=1,
    ),
    encoder=dict(
        num_layers=1,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=width, num_heads=8, dropout=0.0, batch_first=True),
            ffn_cfg=ffn,
        ),
    ),
    decoder=dict(
        num_layers=3,
        query_dim=4,
        query_scale_type='cond_elewise',
        with_modulated_hw_attn=True,
        layer_cfg=dict(
            self_attn_cfg=dict(**attention, cross_attn=False),
            cross_attn_cfg=dict(**attention, cross_attn=True),
            ffn_cfg=ffn,
        ),
        return_intermediate=True,
    ),
    positional_encoding=dict(num_feats=width // 2, temperature=20, normalize=True),
    bbox_head=dict(
        type='DABDETRHead',
        num_classes=8,
        embed_dims=width,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=_base_.model.train_cfg,
    test_cfg=dict(max_per_img=20),
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))

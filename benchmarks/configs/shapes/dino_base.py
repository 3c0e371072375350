# DINO with one encoder and three decoder layers, queries from the image. Its width is fixed at 256.
_base_ = './shapes_96.py'

width = 256
ffn = dict(embed_dims=width, feedforward_channels=512, ffn_drop=0.0)
attention = dict(embed_dims=width, num_levels=3, num_points=2, dropout=0.0)
model = dict(
    _delete_=True,
    type='DINO',
    num_queries=30,
    num_feature_levels=3,
    with_box_refine=True,
    as_two_stage=True,
    data_preprocessor=_base_.model.data_preprocessor,
    # without `init_cfg=None`, so that an option can give it pretrained weights
    backbone={key: value for key, value in _base_.model.backbone.items() if key != 'init_cfg'},
    neck=dict(
        type='ChannelMapper',
        in_channels=[32, 64, 128],
        kernel_size=1,
        out_channels=width,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=32),
        num_outs=3,
    ),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
    decoder=dict(
        num_layers=3,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=width, num_heads=8, dropout=0.0),
            cross_attn_cfg=attention,
            ffn_cfg=ffn,
        ),
        post_norm_cfg=None,
    ),
    positional_encoding=dict(num_feats=width // 2, normalize=True, offset=0.0, temperature=20),
    bbox_head=dict(
        type='DINOHead',
        num_classes=8,
        sync_cls_avg_factor=True,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=20),
    ),
    train_cfg=_base_.model.train_cfg,
    test_cfg=dict(max_per_img=20),
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))

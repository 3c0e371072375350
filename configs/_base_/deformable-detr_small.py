# MMDetection's Deformable DETR with box refinement, shrunk to train from scratch on a CPU in
# minutes: no pretrained weights (nothing is downloaded; the backbone learns at the full rate, with
# its own batch statistics), 64 channels, 1 encoder and 3 decoder layers, no dropout.
_base_ = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'

width = 64
attention = dict(embed_dims=width, num_heads=4, num_points=2)
ffn = dict(embed_dims=width, feedforward_channels=4 * width, ffn_drop=0.0)
model = dict(
    with_box_refine=True,
    num_queries=100,
    backbone=dict(
        depth=18,
        base_channels=16,
        frozen_stages=-1,
        norm_cfg=dict(requires_grad=True),
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[32, 64, 128], out_channels=width, norm_cfg=dict(num_groups=8)),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
    decoder=dict(
        num_layers=3,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=width, num_heads=4, dropout=0.0),
            cross_attn_cfg=attention,
            ffn_cfg=ffn,
        ),
    ),
    positional_encoding=dict(num_feats=width // 2),
    bbox_head=dict(embed_dims=width),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=1.0),
            sampling_offsets=dict(lr_mult=1.0),
            reference_points=dict(lr_mult=1.0),
        )
    ),
)

randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(interval=1, max_keep_ckpts=1),
    stability=dict(type='AssignmentStabilityHook'),  # how steady the matching is, for the report
)

# A two-stage teacher for the DAB-DETR student of this folder: data and schedule of the quickstart's
# teacher, queries from the image. Two-stage Deformable DETR works at width 256 only.
#   python tools/train.py configs/cross_family/deformable-detr-two-stage_teacher_1xb4-6e_shapes.py
# Status: measured here; the figures are in docs/ablation.md.
_base_ = '../quickstart/deformable-detr_teacher_1xb4-10e_shapes.py'

width = 256
attention = dict(embed_dims=width)
model = dict(
    as_two_stage=True,
    neck=dict(out_channels=width),
    encoder=dict(layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=attention)),
    decoder=dict(
        num_layers=3,
        layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=attention),
    ),
    positional_encoding=dict(num_feats=width // 2),
    bbox_head=dict(embed_dims=width),
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))

max_epochs = 6
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

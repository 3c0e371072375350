# The transformer that student and teacher share: three levels, 30 queries.
_base_ = './shapes_96.py'

model = dict(
    num_queries=30,
    num_feature_levels=3,
    neck=dict(num_outs=3),
    encoder=dict(layer_cfg=dict(self_attn_cfg=dict(num_levels=3))),
    decoder=dict(layer_cfg=dict(cross_attn_cfg=dict(num_levels=3))),
    test_cfg=dict(max_per_img=20),
)

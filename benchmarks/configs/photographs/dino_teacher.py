# The teacher: a deeper backbone, another encoder layer, twice the decoder layers.
_base_ = './dino_base.py'

model = dict(
    backbone=dict(variant=1),
    encoder=dict(num_layers=2),
    decoder=dict(num_layers=6),
)

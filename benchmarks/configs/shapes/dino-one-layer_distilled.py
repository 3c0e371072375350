# The student with one decoder layer, distilled.
_base_ = './dino_distilled.py'

model = dict(architecture=dict(decoder=dict(num_layers=1)))

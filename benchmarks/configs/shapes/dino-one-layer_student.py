# A student with one decoder layer.
_base_ = './dino_student.py'

model = dict(decoder=dict(num_layers=1))

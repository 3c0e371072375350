# Reason: class_map 'cat': 'lion': student classes are ['cat', 'dog', 'bus']
_base_ = './_base_/good.py'
model = dict(class_map=dict(cat='lion'))

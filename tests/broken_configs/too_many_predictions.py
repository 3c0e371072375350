# Reason: test_cfg.max_per_img is 100, but 12 queries give 36 predictions
_base_ = './_base_/good.py'
model = dict(architecture=dict(test_cfg=dict(max_per_img=100)))

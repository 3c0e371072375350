# Reason: to have 128 channels, but got 16 channels instead
_base_ = './_base_/good.py'
model = dict(architecture=dict(neck=dict(in_channels=[128, 256, 512])))

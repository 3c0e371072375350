# Reason: FeatureKDLoss: preset must be one of ('paper', 'released'), got 'papers'
_base_ = './_base_/good.py'
model = dict(distiller=dict(distill_losses=dict(loss_feature_kd=dict(preset='papers'))))

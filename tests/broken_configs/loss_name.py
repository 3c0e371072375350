# Reason: distill_losses.loss_logit_kd: a LogitsKDLoss goes by the name 'loss_logits_kd'
_base_ = './_base_/good.py'
model = dict(distiller=dict(distill_losses=dict(loss_logit_kd=dict(type='LogitsKDLoss'))))

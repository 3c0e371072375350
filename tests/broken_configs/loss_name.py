# Reason: distill_losses: unknown name 'loss_logit_kd'; valid are ('loss_logits_kd',
_base_ = './_base_/good.py'
model = dict(distiller=dict(distill_losses=dict(loss_logit_kd=dict(type='LogitsKDLoss'))))

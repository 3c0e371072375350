# Reason: distill_losses.loss_logits_kd: unknown option ['negative_class']; valid are
_base_ = './_base_/good.py'
model = dict(distiller=dict(distill_losses=dict(loss_logits_kd=dict(negative_class=True))))

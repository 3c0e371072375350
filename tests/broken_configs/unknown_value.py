# Reason: AssignKDLoss: assignment must be one of ('teacher', 'student'), got 'gt'
_base_ = './_base_/good.py'
model = dict(distiller=dict(distill_losses=dict(loss_assign_kd=dict(assignment='gt'))))

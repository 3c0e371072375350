# The same with noisy boxes of the objects in place of random ones.
_base_ = './dab-detr_distilled_random_boxes.py'

injection = [dict(type='auto'), dict(type='GroundTruthBoxInjection', num_queries=30)]
model = dict(distiller=dict(distill_losses=dict(loss_aligned_kd=dict(injection=injection))))

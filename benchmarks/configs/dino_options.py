# DINO 4-scale R101 -> R50 with options of three losses, for what they cost:
#   python benchmarks/benchmark.py benchmarks/configs/dino_options.py \
#     --losses aligned+logits+feature --images 1 --repeats 2 --threads 1
# The other rule: --cfg-options model.distiller.distill_losses.loss_aligned_kd.injection.1.type=\
#   GroundTruthBoxInjection and .num_queries=100
_base_ = '../../configs/dino/detrdistill_dino-4scale_r50-from-r101_8xb2-12e_coco.py'

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_logits_kd=dict(negatives='hard'),
            loss_feature_kd=dict(mask='ground_truth'),
            loss_assign_kd=None,
            loss_aligned_kd=dict(
                type='AlignedKDLoss',
                injection=[dict(type='auto'), dict(type='RandomBoxInjection', num_queries=300)],
            ),
        )
    )
)

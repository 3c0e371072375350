# DINO 4-scale R101 -> R50 with options of three losses, for what they cost. With
#   OPTIONS="--images 1 --size 480 800 --repeats 2 --threads 1 --clock cpu"
# the first command times the losses as they are, the second the options with random boxes, and
# with the last two lines boxes of the objects:
#   python benchmarks/benchmark.py --losses aligned+paper $OPTIONS \
#     configs/dino/detrdistill_dino-4scale_r50-from-r101_8xb2-12e_coco.py
#   python benchmarks/benchmark.py benchmarks/configs/dino_options.py \
#     --losses aligned+logits+feature $OPTIONS
#   RULE=model.distiller.distill_losses.loss_aligned_kd.injection.1
#   --cfg-options $RULE.type=GroundTruthBoxInjection $RULE.num_queries=100
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

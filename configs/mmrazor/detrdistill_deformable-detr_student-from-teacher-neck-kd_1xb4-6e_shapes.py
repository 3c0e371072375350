# The quickstart's distillation with three of MMRazor's losses beside ours: CWD, PKD and MGD on the
# finest map of the neck. Recorders keep a module's output, connectors change it, mappings name
# what each loss receives; see docs/mmrazor.md.
# Teacher: python tools/train.py configs/quickstart/deformable-detr_teacher_1xb8-10e_shapes.py
#   python tools/train.py \
#     configs/mmrazor/detrdistill_deformable-detr_student-from-teacher-neck-kd_1xb8-6e_shapes.py
# Status: an example, not run to the end; tests/test_mmrazor_pipelines.py checks its losses.
_base_ = '../quickstart/detrdistill_deformable-detr_student-from-teacher_1xb8-6e_shapes.py'

student_map = dict(from_student=True, recorder='neck', data_idx=0)
teacher_map = dict(from_student=False, recorder='neck', data_idx=0)
model = dict(
    distiller=dict(
        student_recorders=dict(neck=dict(type='ModuleOutputs', source='neck')),
        teacher_recorders=dict(neck=dict(type='ModuleOutputs', source='neck')),
        connectors=dict(
            masked=dict(
                type='MGDConnector', student_channels=64, teacher_channels=64, lambda_mgd=0.65
            ),
        ),
        distill_losses=dict(
            loss_cwd=dict(type='ChannelWiseDivergence', tau=1, loss_weight=1.0),
            loss_pkd=dict(type='PKDLoss', loss_weight=1.0),
            loss_mgd=dict(type='MGDLoss', alpha_mgd=0.00002),
        ),
        loss_forward_mappings=dict(
            loss_cwd=dict(preds_S=student_map, preds_T=teacher_map),
            loss_pkd=dict(preds_S=student_map, preds_T=teacher_map),
            loss_mgd=dict(preds_S=dict(student_map, connector='masked'), preds_T=teacher_map),
        ),
    ),
)

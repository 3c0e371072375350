# Reason: no queries can be injected into this DETR student of a DINO teacher. TeacherQueryInjection
_base_ = './_base_/good.py'
small = {
    'num_queries': 12,
    'backbone.depth': 18,
    'backbone.base_channels': 8,
    'backbone.init_cfg': None,
    'encoder.num_layers': 1,
    'decoder.num_layers': 1,
    'bbox_head.num_classes': 3,
    'test_cfg.max_per_img': 12,
}
model = dict(
    architecture=dict(
        _delete_=True,
        cfg_path='mmdet::detr/detr_r50_8xb2-150e_coco.py',
        options={**small, 'neck.in_channels': [64]},
    ),
    teacher=dict(
        _delete_=True,
        cfg_path='mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
        options={**small, 'neck.in_channels': [16, 32, 64]},
    ),
    teacher_ckpt='detr_from_dino.pth',
)

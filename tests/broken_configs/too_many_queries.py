# Reason: images of (96, 128) pixels give 256 feature pixels, the student DINO picks 300 queries
_base_ = './_base_/good.py'
model = dict(
    architecture=dict(
        _delete_=True,
        cfg_path='mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
        options={
            'num_queries': 300,
            'backbone.depth': 18,
            'backbone.base_channels': 8,
            'backbone.init_cfg': None,
            'neck.in_channels': [16, 32, 64],
            'encoder.num_layers': 1,
            'decoder.num_layers': 1,
            'bbox_head.num_classes': 3,
        },
    )
)

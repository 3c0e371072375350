# A DAB-DETR student of the tiny Deformable DETR, with other width and depth: nothing wrong with it.
_base_ = './good.py'
model = dict(
    architecture=dict(
        _delete_=True,
        cfg_path='mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py',
        options={
            'num_queries': 12,
            'backbone.depth': 18,
            'backbone.base_channels': 8,
            'backbone.init_cfg': None,
            'neck.in_channels': [64],
            'encoder.num_layers': 1,
            'decoder.num_layers': 1,
            'bbox_head.num_classes': 3,
            'test_cfg.max_per_img': 30,
        },
    )
)

"""A detector with the interface of MMDetection's CO-DETR project, made of the tiny stock DINO.

What it shares with the real one: no `DetectionTransformer`, a query head that owns a transformer
whose tensors are sequence first, a list of other heads under `bbox_head`, and post-processing with
NMS. Its predictions are those of the DINO inside, which gives the adapter something to be held to.
"""

import torch
import torch.nn.functional as F
from mmcv.ops import nms
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from torch import nn

from tests.tiny_detectors import tiny


class Transformer(nn.Module):
    def __init__(self, dino):
        super().__init__()
        self.encoder, self.decoder = dino.encoder, dino.decoder
        self.query_embed = dino.query_embedding
        self.dino = [dino.eval()]  # a teacher's: no denoising

    def _apply(self, *args, **kwargs):
        self.dino[0]._apply(*args, **kwargs)
        return super()._apply(*args, **kwargs)

    def forward(
        self,
        mlvl_feats,
        mlvl_masks,
        query_embed,
        mlvl_pos_embeds,
        dn_label_query,
        dn_bbox_query,
        attn_mask,
        reg_branches=None,
        cls_branches=None,
    ):
        (dino,) = self.dino
        assert query_embed is None and dn_label_query is None
        shapes = torch.tensor(
            [feature.shape[-2:] for feature in mlvl_feats], device=mlvl_feats[0].device
        )
        starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
        ratios = torch.stack([dino.get_valid_ratio(mask) for mask in mlvl_masks], 1)
        positions = [
            place.flatten(2).transpose(1, 2) + embed
            for place, embed in zip(mlvl_pos_embeds, dino.level_embed)
        ]
        mask = torch.cat([mask.flatten(1) for mask in mlvl_masks], 1)
        shared = dict(spatial_shapes=shapes, level_start_index=starts, valid_ratios=ratios)
        encoded = dino.forward_encoder(
            feat=torch.cat([feature.flatten(2).transpose(1, 2) for feature in mlvl_feats], 1),
            feat_mask=mask,
            feat_pos=torch.cat(positions, 1),
            **shared,
        )
        queries, _ = dino.pre_decoder(**encoded)
        decoded = dino.forward_decoder(memory_mask=mask, **queries, **shared)
        hidden_states, references = decoded['hidden_states'], torch.stack(decoded['references'])
        return (
            hidden_states.transpose(1, 2),
            references,
            None,
            None,
            encoded['memory'].transpose(0, 1),
        )


@MODELS.register_module()
class CoDINOHead(nn.Module):
    def __init__(self, dino):
        super().__init__()
        own = dino.bbox_head
        self.num_query, self.embed_dims = dino.num_queries, dino.embed_dims
        self.num_classes, self.loss_cls = own.num_classes, own.loss_cls
        self.assigner, self.test_cfg = own.assigner, dict(max_per_img=10)
        self.transformer = Transformer(dino)
        self.positional_encoding = dino.positional_encoding
        self.cls_branches, self.reg_branches = own.cls_branches, own.reg_branches
        self.dino_head = [own]

    def forward(self, mlvl_feats, img_metas):
        size = img_metas[0]['batch_input_shape']
        outside = mlvl_feats[0].new_ones(len(img_metas), *size)
        for image, meta in zip(outside, img_metas):
            height, width = meta['img_shape']
            image[:height, :width] = 0
        masks = [
            F.interpolate(outside[None], size=feature.shape[-2:])[0].bool()
            for feature in mlvl_feats
        ]
        places = [self.positional_encoding(mask) for mask in masks]
        hidden_states, references, _, _, memory = self.transformer(
            mlvl_feats,
            masks,
            None,
            places,
            None,
            None,
            None,
            reg_branches=self.reg_branches,
            cls_branches=self.cls_branches,
        )
        classes, boxes = self.dino_head[0](hidden_states.transpose(1, 2), list(references))
        return classes, boxes, None, None, [memory]

    def loss_by_feat(self, *args):
        raise AssertionError('a teacher has no loss')

    def predict(self, features, batch_data_samples, rescale=True):
        metas = [sample.metainfo for sample in batch_data_samples]
        return self.predict_by_feat(*self(features, metas), batch_img_metas=metas, rescale=rescale)

    def predict_by_feat(
        self, classes, boxes, encoder_classes, encoder_boxes, maps, batch_img_metas, rescale=True
    ):
        """With one box for all that overlap."""
        self.dino_head[0].test_cfg = self.test_cfg
        found = self.dino_head[0].predict_by_feat(
            classes, boxes, batch_img_metas=batch_img_metas, rescale=rescale
        )
        return [objects[nms(objects.bboxes, objects.scores, 0.9)[1]] for objects in found]


@MODELS.register_module()
class CoDETR(BaseDetector):
    def __init__(self, dino):
        super().__init__(data_preprocessor=dino.data_preprocessor)
        self.backbone, self.neck = dino.backbone, dino.neck
        self.query_head = CoDINOHead(dino)
        self.bbox_head = nn.ModuleList([nn.Conv2d(256, 3, 1)])
        self.test_cfg = [dict(max_per_img=10)]

    def extract_feat(self, batch_inputs):
        return self.neck(self.backbone(batch_inputs))

    def loss(self, batch_inputs, batch_data_samples):
        raise AssertionError('a teacher has no loss')

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        features = self.extract_feat(batch_inputs)
        found = self.query_head.predict(features, batch_data_samples, rescale)
        return self.add_pred_to_datasample(batch_data_samples, found)

    def _forward(self, batch_inputs, batch_data_samples=None):
        raise AssertionError('not called')


def codetr(seed=0, **options):
    return CoDETR(tiny('dino', seed=seed, **options))

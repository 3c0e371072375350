"""A detector with the interface of RT-DETR for MMDetection 3.x; its layers are our own.

What it shares with the real one: no padding mask, references as logits, queries from the memory,
predictions of all stages as lists in training and of one stage in evaluation, a decoder that
applies the head's branches, and a classification loss whose target is the IoU.
"""

from contextlib import contextmanager

import torch
from mmdet.models.dense_heads import DINOHead
from mmdet.models.detectors import DINO
from mmdet.models.layers.transformer.dino_layers import MLP, DinoTransformerDecoder
from mmdet.models.losses import QualityFocalLoss, VarifocalLoss
from mmdet.registry import MODELS
from torch import nn

from tests.tiny_detectors import build, tiny_config


class Encoder(nn.Module):
    """One convolution per level, with the coarser level added."""

    def __init__(self, levels, width, num_encoder_layers=1):
        super().__init__()
        self.num_encoder_layers = num_encoder_layers
        self.layers = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(levels)])

    def forward(self, features):
        found = []
        for layer, feature in zip(self.layers[::-1], features[::-1]):
            if found:
                size = feature.shape[-2:]
                feature = feature + nn.functional.interpolate(found[-1], size=size)
            found.append(layer(feature).tanh())
        return tuple(found[::-1])


class Decoder(DinoTransformerDecoder):
    def _init_layers(self):
        super()._init_layers()
        self.ref_point_head = MLP(4, 2 * self.embed_dims, self.embed_dims, 2)
        self.norm = nn.Identity()

    def forward(self, query, reference_points, reg_branches, cls_branches, eval_idx=-1, **inputs):
        last = range(self.num_layers)[eval_idx]
        classes, boxes = [], []
        for stage, layer in enumerate(self.layers):
            places = reference_points.sigmoid()
            if stage:
                places = places.detach()
            query = layer(
                query,
                query_pos=self.ref_point_head(places),
                reference_points=places[:, :, None],
                **inputs,
            )
            change = reg_branches[stage](query)
            if self.training or stage == last:
                classes.append(cls_branches[stage](query))
                boxes.append((reference_points + change).sigmoid())
                if not self.training:
                    break
            reference_points = reference_points.detach() + change
        return classes, boxes


@MODELS.register_module()
class RTDETR(DINO):
    def __init__(self, *args, eval_idx=-1, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_idx = eval_idx

    def _init_layers(self):
        self.encoder = Encoder(**self.encoder)
        self.decoder = Decoder(**self.decoder)
        self.embed_dims = self.decoder.embed_dims
        self.memory_trans_fc = nn.Linear(self.embed_dims, self.embed_dims)
        self.memory_trans_norm = nn.LayerNorm(self.embed_dims)

    def init_weights(self):
        self.backbone.init_weights()
        self.neck.init_weights()

    def pre_transformer(self, mlvl_feats, batch_data_samples=None):
        sizes = [feature.shape[-2:] for feature in mlvl_feats]
        shapes = torch.tensor(sizes, device=mlvl_feats[0].device)
        starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
        decoder_inputs = dict(
            memory_mask=None, spatial_shapes=shapes, level_start_index=starts, valid_ratios=None
        )
        return dict(mlvl_feats=mlvl_feats, spatial_shapes=shapes), decoder_inputs

    def forward_encoder(self, mlvl_feats, spatial_shapes):
        maps = self.encoder(mlvl_feats)
        memory = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        return dict(memory=memory, memory_mask=None, spatial_shapes=spatial_shapes)

    def pre_decoder(self, memory, memory_mask, spatial_shapes, batch_data_samples=None):
        content, anchors = self.gen_encoder_output_proposals(memory, memory_mask, spatial_shapes)
        classes = self.bbox_head.cls_branches[-1](content)
        best = classes.amax(-1).topk(self.num_queries, dim=1).indices[..., None]

        def pick(values):
            return values.gather(1, best.expand(-1, -1, values.shape[-1]))

        query = pick(content)
        references = self.bbox_head.reg_branches[-1](query) + pick(anchors)
        head_inputs, dn_mask = {}, None
        if self.training:
            noise, places, dn_mask, meta = self.dn_query_generator(batch_data_samples)
            head_inputs = dict(
                enc_outputs_class=pick(classes),
                enc_outputs_coord=references.sigmoid(),
                dn_meta=meta,
            )
            query = torch.cat((noise, query.detach()), dim=1)
            references = torch.cat((places, references.detach()), dim=1)
        decoder_inputs = dict(
            query=query,
            memory=memory,
            reference_points=references,
            dn_mask=dn_mask,
            cls_branches=self.bbox_head.cls_branches,
            eval_idx=self.eval_idx,
        )
        return decoder_inputs, head_inputs


@MODELS.register_module()
class RTDETRV2(RTDETR):
    """The second version differs inside its layers."""


@MODELS.register_module()
class DEIMRTDETR(RTDETR):
    """DEIM differs in activations, and in a loss with the arguments of the varifocal one."""


@MODELS.register_module()
class MatchabilityLoss(VarifocalLoss):
    def forward(self, pred, target, *args, **kwargs):
        return super().forward(pred, target.pow(1.5), *args, **kwargs)


class PairTarget(QualityFocalLoss):
    """Gives a varifocal loss what `DINOHead` computes for a quality focal loss."""

    def __init__(self, loss):
        super().__init__()
        self.loss = [loss]

    def forward(self, logits, target, weight=None, avg_factor=None):
        labels, iou = target
        dense = logits.new_zeros(len(labels), logits.shape[1] + 1)
        dense[range(len(labels)), labels] = iou
        return self.loss[0](logits, dense[:, :-1], avg_factor=avg_factor)


@MODELS.register_module()
class RTDETRHead(DINOHead):
    def forward(self, hidden_states, references):
        return hidden_states, references

    @staticmethod
    def split_outputs(classes, boxes, dn_meta):
        if dn_meta is None:
            return classes, boxes, None, None
        count = dn_meta['num_denoising_queries']
        split = [
            ([v[:, count:] for v in part], [v[:, :count] for v in part])
            for part in (classes, boxes)
        ]
        (matched_classes, noisy_classes), (matched_boxes, noisy_boxes) = split
        return matched_classes, matched_boxes, noisy_classes, noisy_boxes

    @contextmanager
    def pair_target(self):
        varifocal = self.loss_cls
        self.loss_cls = PairTarget(varifocal)
        try:
            yield
        finally:
            self.loss_cls = varifocal

    def loss_by_feat_single(self, *args, **kwargs):
        with self.pair_target():
            return super().loss_by_feat_single(*args, **kwargs)

    def _loss_dn_single(self, *args, **kwargs):
        with self.pair_target():
            return super()._loss_dn_single(*args, **kwargs)


def rtdetr(seed=0, version='RTDETR', **options):
    """The stand-in with three levels, of the tiny DINO's config."""
    config = tiny_config('dino', strides=(8, 16, 32), **options)
    config.type = version
    config.encoder = dict(levels=3, width=256)
    config.num_feature_levels = 3
    del config.positional_encoding
    config.bbox_head.type = 'RTDETRHead'
    config.bbox_head.loss_cls = dict(
        type='MatchabilityLoss' if version == 'DEIMRTDETR' else 'VarifocalLoss',
        use_sigmoid=True,
        alpha=0.75,
        gamma=2.0,
        iou_weighted=True,
    )
    return build(config, seed)

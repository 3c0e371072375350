"""What MMRazor 1.0.0 promises holds again on this PyTorch and MMEngine."""

import mmdet_detrdistill  # noqa: F401 isort: skip (MMRazor does not import before it)
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmrazor.engine import SelfDistillValLoop, SingleTeacherDistillValLoop
from mmrazor.models import BaseAlgorithm, InformationEntropyLoss, KDSoftCELoss
from mmrazor.models.task_modules import DistillDeliveryManager, RecorderManager
from torch import nn
from torch.testing import assert_close


class Block(BaseModel):
    """A batch norm before a ReLU in place; predicts a dict, which is no list."""

    def __init__(self):
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(2).eval(), nn.ReLU(inplace=True)
        self.nested = nn.Sequential(nn.ReLU6(inplace=True))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'predict':
            return dict(scores=torch.stack(inputs).sum() * self.factor)
        return self.relu(self.norm(inputs))


def test_recorder_keeps_what_a_relu_in_place_follows():
    model = Block()
    BaseAlgorithm(model)
    assert not model.relu.inplace and not model.nested[0].inplace
    recorders = RecorderManager(ConfigDict(norm=dict(type='ModuleOutputs', source='norm')))
    recorders.initialize(model)
    inputs = torch.full((1, 2, 1, 1), -3.0)
    with recorders:
        model(inputs)
    assert_close(recorders.get_recorder('norm').get_record_data(), inputs / (1 + 1e-5) ** 0.5)


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_soft_cross_entropy_without_mmcls(tau):
    student, teacher = torch.randn(2, 5, 6, dtype=torch.float64)
    expected = -((teacher / tau).softmax(-1) * (student / tau).log_softmax(-1)).sum(-1)
    assert_close(KDSoftCELoss(tau=tau)(student, teacher), tau**2 * expected.mean())
    weights = torch.arange(5)
    weighted = KDSoftCELoss(tau=tau, reduction='sum')(student, teacher, weights)
    assert_close(weighted, tau**2 * (expected * weights).sum(), check_dtype=False)


def test_missing_group_is_a_runtime_error():
    loss = InformationEntropyLoss(gather=True)
    loss.world_size = 2
    with pytest.raises(RuntimeError, match='process group has not been initialized'):
        loss(torch.randn(2, 3))


class Sum(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(float(data_samples[0]))

    def compute_metrics(self, results):
        return dict(sum=sum(results))


class Scores(Evaluator):
    def process(self, data_samples, data_batch=None):  # the predictions are a dict
        super().process([data_samples['scores']], data_batch)


@pytest.mark.parametrize('kind', [SingleTeacherDistillValLoop, SelfDistillValLoop])
def test_validation_loops_take_any_outputs(kind, tmp_path):
    """Images 1, 2, 3 summed: student 6, teacher, twice as large, 12."""
    model = Block()
    model.factor = 1
    model.teacher = Block()
    model.teacher.factor = 2
    data = [dict(inputs=torch.tensor(float(value))) for value in (1, 2, 3)]
    runner = Runner(
        model,
        str(tmp_path),
        val_dataloader=dict(
            dataset=data, sampler=dict(type='DefaultSampler', shuffle=False), batch_size=1
        ),
        val_cfg=dict(type=kind),
        val_evaluator=Scores(Sum()),
        default_scope='mmdet',  # as other tests expect it afterwards
        experiment_name=f'loops-{kind.__name__}',
    )
    runner.val()
    found = runner.message_hub.log_scalars
    if kind is SelfDistillValLoop:
        assert found['val/student.sum'].current() == 6
    else:
        sums = [found[f'val/{name}'].current() for name in ('sum', 'teacher.sum')]
        assert sums == [6, 12]


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmrazor'])
def test_recorders_and_deliveries_are_found_in_any_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        source = 'torch.nn.functional.relu'
        recorders = RecorderManager(ConfigDict(x=dict(type='FunctionOutputs', source=source)))
        delivery = dict(type='FunctionOutputs', func_path=source, max_keep_data=1)
        deliveries = DistillDeliveryManager(ConfigDict(x=delivery))
    assert set(recorders.recorders) == set(deliveries.deliveries) == {'x'}

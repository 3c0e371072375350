"""Parameter groups are the student's own, whatever a constructor reads off names."""

import copy

import pytest
import torch
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.check.model import describe_optimizer
from mmdet_detrdistill.distillation.optimizer import use_student_names
from tests import trainings
from tests.tiny_detectors import tiny


@MODELS.register_module()
class TinyConvNeXt(ResNet):
    """MMDetection's layer decay asks for this name."""


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class FromTheStart(DefaultOptimWrapperConstructor):
    """A tenth of the rate for what begins with `backbone.`, by recursion over children."""

    def add_params(self, params, module, prefix='', **kwargs):
        for name, value in module.named_parameters():
            rate = 0.1 if name.startswith('backbone.') else 1.0
            params.append(dict(params=[value], lr=rate * self.base_lr, name=name))


LAYER_DECAY = dict(
    constructor='LearningRateDecayOptimizerConstructor',
    paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise', num_layers=6),
)
BY_NAME = dict(constructor='FromTheStart', paramwise_cfg=dict(some=1))


def rates_of(model, options):
    """The learning rate and weight decay of each parameter."""
    config = Config(dict(model=dict(type='DETRDistill'), optim_wrapper=options))
    config.optim_wrapper.optimizer = dict(type='AdamW', lr=1e-3, weight_decay=0.1)
    if isinstance(model, DETRDistill):
        use_student_names(config)
    with DefaultScope.overwrite_default_scope('mmdet'):
        groups = build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups
    return {
        id(value): (group['lr'], group['weight_decay'])
        for group in groups
        for value in group['params']
    }


@pytest.mark.parametrize('options', [LAYER_DECAY, BY_NAME], ids=['layer decay', 'own'])
def test_groups_are_those_of_the_student_alone(options):
    student = tiny('deformable', 1, width=64)
    student.backbone.__class__ = TinyConvNeXt
    losses = dict(loss_feature_kd=dict(type='FeatureKDLoss'))
    distiller = dict(type='DETRDistiller', distill_losses=losses)
    model = DETRDistill(student, tiny('deformable', 2, width=96), distiller)
    alone, found = rates_of(student, copy.deepcopy(options)), rates_of(model, options)
    backbone = {alone[id(value)] for value in student.backbone.parameters() if value.requires_grad}
    head = {alone[id(value)] for value in student.bbox_head.parameters()}
    assert len(backbone | head) > 1
    learned = {id(value): (1e-3, 0.1) for value in model.distiller.parameters()}
    assert len(learned) == 2
    assert found == {**alone, **learned}


def test_check_refuses_groups_without_weight_decay():
    """MMDetection's layer decay passes on a weight decay that is not there; a step needs one."""
    student = tiny('deformable', 1, width=64)
    student.backbone.__class__ = TinyConvNeXt
    model = DETRDistill(student, tiny('deformable', 2, width=64), dict(type='DETRDistiller'))
    options = dict(copy.deepcopy(LAYER_DECAY), optimizer=dict(type='AdamW', lr=1e-3))
    config = Config(dict(model=dict(type='DETRDistill'), optim_wrapper=options))
    with DefaultScope.overwrite_default_scope('mmdet'):
        with pytest.raises(ValueError, match=r'set optim_wrapper\.optimizer\.weight_decay'):
            describe_optimizer(config, model)
        config.optim_wrapper.optimizer.weight_decay = 0.1
        assert 'learning rates' in dict(describe_optimizer(config, model))['optimizer']


@pytest.mark.parametrize('options', [{}, dict(constructor='DefaultOptimWrapperConstructor')])
def test_the_default_constructor_stays(options):
    config = Config(dict(model=dict(type='DETRDistill'), optim_wrapper=options))
    use_student_names(config)
    assert config.optim_wrapper == options


def test_a_plain_detector_keeps_its_constructor():
    config = Config(dict(model=dict(type='DINO'), optim_wrapper=dict(constructor='FromTheStart')))
    use_student_names(config)
    assert config.optim_wrapper == dict(constructor='FromTheStart')


def decayed(folder):
    trainings.draw_images(folder / 'data')
    trainings.save_teacher(folder / 'teacher.pth')
    config = trainings.distillation(folder / 'data', folder / 'teacher.pth', epochs=2)
    config.optim_wrapper.update(BY_NAME)
    return config


def test_training_check_and_resume(tmp_path):
    """By the tools: check builds the groups, a training has them, a resumed one again."""
    config = decayed(tmp_path)
    config.custom_imports.imports.append(__name__)
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.dataset['_scope_'] = 'mmdet'
    ended = trainings.run_training(config, tmp_path / 'work', kill_at=6)
    ended = trainings.run_training(config, tmp_path / 'work', '--resume')
    assert ended.code == 0, ended.output
    state = torch.load(tmp_path / 'work' / 'epoch_2.pth', weights_only=False)['optimizer']
    rates = {group['name']: group['lr'] for group in state['param_groups'] if 'name' in group}
    slow = {name for name, rate in rates.items() if rate < 5e-4}
    assert slow == {name for name in rates if name.startswith('backbone.')} != set()
    ended = trainings.run_tool('check', [str(tmp_path / 'work.py')], tmp_path / 'check.log')
    assert 'learning rates 0.0001 to 0.001' in ended.output
    assert ended.output.rstrip().endswith('FITS')


def test_a_bare_runner_that_names_the_constructor(tmp_path):
    config = decayed(tmp_path)
    options = dict(constructor='StudentOptimWrapperConstructor', student_constructor='FromTheStart')
    config.optim_wrapper.update(options)
    config.train_cfg.max_epochs = 1
    config.update(work_dir=str(tmp_path / 'bare'), val_cfg=None, val_dataloader=None)
    config.update(val_evaluator=None, experiment_name='bare', log_level='ERROR')
    with trainings.unformatted_configs():
        runner = Runner.from_cfg(config)
        runner.train()
    names = [
        group.get('name', 'the distiller') for group in runner.optim_wrapper.optimizer.param_groups
    ]
    assert names[0].split('.')[0] in ('backbone', 'level_embed')
    assert not any(name.startswith('architecture.') for name in names)

"""A killed and resumed training equals an uninterrupted one; what cannot be resumed is refused."""

import copy
import shutil
import signal

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import load_checkpoint

from mmdet_detrdistill import DETRDistill, IterationSeedHook
from mmdet_detrdistill.checkpoints.read import CheckpointError, load_checkpoint_file
from mmdet_detrdistill.checkpoints.resume import check_start, make_resumable, newest_checkpoint
from mmdet_detrdistill.distillation import algorithm
from tests.pickle_bomb import Bomb
from tests.tiny_detectors import build, tiny, tiny_config
from tests.trainings import differences, distillation, in_logs, run_training, save_teacher


def test_resume_after_a_kill_equals_the_uninterrupted_run(trained):
    """Killed in the third epoch of four iterations, after dropout, flips and a validation.

    The schedule and MMRazor's stop hook, which ends distillation after the second epoch, go on.
    """
    folder = trained.folder / 'killed'
    assert run_training(trained.config, folder, kill_at=10).code == -signal.SIGKILL
    resumed = run_training(trained.config, folder, '--resume')
    assert resumed.code == 0, resumed.output
    assert 'resumed epoch: 2, iter: 8' in resumed.output
    assert 'Distillation has been stopped!' in resumed.output
    assert differences(trained.folder / 'whole' / 'epoch_3.pth', folder / 'epoch_3.pth') == {}
    assert sorted(path.name for path in folder.glob('epoch_*')) == ['epoch_3.pth']


def test_boxes_for_both_decoders_resume_bit_for_bit(trained, tmp_path):
    """They are drawn from the iteration; a process of its own knows no other state."""
    teacher = save_teacher(tmp_path / 'teacher.pth', 'dino')
    config = distillation(trained.folder / 'data', teacher, 'dino', epochs=2)
    rules = [dict(type=f'{kind}BoxInjection', num_queries=5) for kind in ('Random', 'GroundTruth')]
    losses = dict(loss_aligned_kd=dict(type='AlignedKDLoss', injection=rules))
    config.model.distiller.distill_losses = losses
    config.default_hooks.checkpoint.max_keep_ckpts = 2
    whole = run_training(config, tmp_path / 'whole')
    assert whole.code == 0, whole.output
    (tmp_path / 'rest').mkdir()
    shutil.copy(tmp_path / 'whole' / 'epoch_1.pth', tmp_path / 'rest')
    resumed = run_training(config, tmp_path / 'rest', '--resume')
    assert 'resumed epoch: 1, iter: 4' in resumed.output
    last = (tmp_path / name / 'epoch_2.pth' for name in ('whole', 'rest'))
    assert differences(*last) == {}
    values = in_logs(tmp_path / 'whole', 'loss_aligned_kd.random_bbox')
    assert len(values) == 8 and min(values) > 0


def test_the_log_shows_the_factors(trained):
    """Up over two epochs of four iterations; from the third on nothing is distilled."""
    factors = in_logs(trained.folder / 'whole', 'feature_kd.factor')
    assert factors == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1]
    content = load_checkpoint_file(str(trained.folder / 'whole' / 'epoch_3.pth'))
    logged = content['message_hub']['log_scalars']
    steps = {name: len(logged[f'train/{name}'].data[0]) for name in ('loss', 'loss_feature_kd')}
    assert steps == dict(loss=12, loss_feature_kd=7)
    assert 'Distillation has been stopped!' in trained.output


def test_a_checkpoint_is_no_larger_than_the_student_s_own(trained, tmp_path):
    """Without teacher: weights and optimizer state of the student, and little more."""
    path = trained.folder / 'whole' / 'epoch_3.pth'
    content = load_checkpoint_file(str(path))
    student = {k: v for k, v in content['state_dict'].items() if k.startswith('architecture.')}
    assert len(student) == len(content['state_dict'])  # equal widths: no adapters
    weights = [v for k, v in student.items() if 'running' not in k and 'num_batches' not in k]
    state = content['optimizer']['state']
    moments = [m for entry in state.values() for m in entry.values() if m.dim()]
    assert len(moments) == 2 * len(state) and len(state) <= len(weights)
    alone = dict(state_dict=student, optimizer=content['optimizer'])
    torch.save(alone, tmp_path / 'alone.pth')
    extra = path.stat().st_size - (tmp_path / 'alone.pth').stat().st_size
    assert extra < (trained.folder / 'teacher.pth').stat().st_size / 4, 'text and log buffers'


@pytest.fixture
def run(trained, tmp_path):
    """A work folder with the last checkpoint, its config, and a model that it fits."""
    shutil.copy(trained.folder / 'whole' / 'epoch_3.pth', tmp_path / 'epoch_3.pth')
    state = load_checkpoint_file(str(tmp_path / 'epoch_3.pth'))['state_dict']

    class Model(torch.nn.Module):
        def state_dict(self):
            return state

    def start(path, resume=True):
        check_start(Config(dict(load_from=str(path), resume=resume)), Model())

    start.folder = tmp_path
    start.whole = tmp_path / 'epoch_3.pth'
    return start


def test_what_is_whole_can_be_resumed(run):
    run(run.whole)
    (run.folder / 'last_checkpoint').write_text(str(run.whole))
    assert newest_checkpoint(str(run.folder)) == str(run.whole)


@pytest.mark.parametrize('note', [None, '', '/moved/from/epoch_3.pth'])
def test_without_a_usable_note_the_newest_whole_file_is_taken(run, note):
    (run.folder / 'epoch_4.pth').write_bytes(run.whole.read_bytes()[:5000])
    if note is not None:
        (run.folder / 'last_checkpoint').write_text(note)
    assert newest_checkpoint(str(run.folder)) == str(run.whole)


def test_nothing_to_resume(tmp_path):
    assert newest_checkpoint(str(tmp_path)) is None
    check_start(Config(dict(resume=True, load_from=None)), torch.nn.Linear(1, 1))


def test_truncated_checkpoint_names_the_previous_one(run):
    broken = run.folder / 'epoch_4.pth'
    broken.write_bytes(run.whole.read_bytes()[:5000])
    with pytest.raises(CheckpointError) as caught:
        run(broken)
    message = str(caught.value)
    assert 'epoch_4.pth (5000 bytes) is truncated' in message
    assert f'--resume {run.whole} is the newest that can' in message
    assert run.whole.exists() and broken.exists()


def test_foreign_checkpoint_names_what_does_not_fit(run):
    content = load_checkpoint_file(str(run.whole))
    state = content['state_dict']
    state['backbone.other'] = state.pop('architecture.level_embed')
    torch.save(content, run.folder / 'other.pth')
    with pytest.raises(CheckpointError) as caught:
        run(run.folder / 'other.pth')
    message = str(caught.value)
    assert 'missing (1): architecture.level_embed' in message
    assert 'unexpected (1): backbone.other' in message
    assert f'--resume {run.whole} is the newest' in message


def test_weights_alone_cannot_be_resumed(run):
    content = load_checkpoint_file(str(run.whole))
    path = run.folder / 'weights.pth'
    torch.save(dict(state_dict=content['state_dict']), path)
    with pytest.raises(CheckpointError, match=r'no meta, optimizer, message_hub.*load_from=.*hts'):
        run(path)
    run(path, resume=False)


@pytest.fixture
def start_from(tmp_path):
    """Checks and loads weights as a training does, into a distillation of five classes."""
    config = tiny_config('dino')
    config.bbox_head.num_classes = 5
    student, teacher = (build(copy.deepcopy(config), seed) for seed in (1, 2))
    model = DETRDistill(student, teacher, dict(type='DETRDistiller'))

    def start(weights):
        path = tmp_path / 'plain.pth'
        torch.save(dict(state_dict=weights), path)
        said = check_start(Config(dict(load_from=str(path))), model)
        load_checkpoint(model, str(path), map_location='cpu')
        return said

    start.model, start.student = model, model.student
    return start


@pytest.mark.parametrize('prefix', ['', 'module.', 'architecture.'])
def test_fine_tuning_starts_from_a_student(start_from, prefix):
    """Plain, of several processes, or of a distillation."""
    weights = {prefix + name: v + 1 for name, v in start_from.student.state_dict().items()}
    assert start_from(weights).endswith('plain.pth')
    for name, value in start_from.student.state_dict().items():
        assert torch.equal(value, weights[prefix + name]), name


def test_fine_tuning_for_other_classes(start_from, monkeypatch):
    """As in MMEngine: heads and label embeddings of another class count stay as they are."""
    said = []
    monkeypatch.setattr(algorithm, 'print_log', lambda text, logger: said.append(text))
    before = copy.deepcopy(start_from.student.state_dict())
    weights = tiny('dino', seed=7).state_dict()
    other = [name for name, value in weights.items() if value.shape != before[name].shape]
    assert 'dn_query_generator.label_embedding.weight' in other
    assert start_from(weights).endswith(f'plain.pth, but for {len(other)} weights of other classes')
    for name, value in start_from.student.state_dict().items():
        assert torch.equal(value, before[name] if name in other else weights[name]), name
    assert said == ['the student starts from the weights of a plain detector']


def test_weights_of_another_detector_are_no_start(start_from):
    """A teacher with a layer or queries more, a backbone alone; of a distillation too."""
    deeper, wider = (tiny('dino', **more) for more in (dict(num_layers=3), dict(num_queries=13)))
    backbone = {f'backbone.{k}': v for k, v in start_from.student.backbone.state_dict().items()}
    states = [deeper.state_dict(), wider.state_dict(), tiny('detr').state_dict(), backbone]
    for weights in states:
        for prefix in ('', 'architecture.'):
            with pytest.raises(CheckpointError, match='does not fit the student'):
                start_from({f'{prefix}{name}': value for name, value in weights.items()})


@pytest.mark.parametrize('resume', [True, False])
def test_pickle_bomb_is_refused_unexecuted(run, resume):
    bomb, target = run.folder / 'bomb.pth', run.folder / 'executed'
    torch.save(dict(state_dict={}, meta=Bomb(target)), bomb)
    with pytest.raises(CheckpointError, match=r'bomb\.pth was refused .*mkdir'):
        run(bomb, resume=resume)
    assert not target.exists()


@pytest.mark.parametrize('kind', ['CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook])
def test_what_train_py_adds(kind):
    config = Config(dict(default_hooks=dict(checkpoint=dict(type=kind, interval=3))))
    for _ in range(2):
        make_resumable(config)
    assert config.default_hooks.checkpoint == dict(type='mmdet.SafeCheckpointHook', interval=3)
    assert config.custom_hooks == [dict(type='mmdet.IterationSeedHook')]
    seeding = 'IterationSeedHook' if isinstance(kind, str) else IterationSeedHook
    own = Config(
        dict(
            default_hooks=dict(checkpoint=dict(type='Own')),
            custom_hooks=[dict(type=seeding, restart_workers=False), dict(type='A')],
        )
    )
    before = own.to_dict()
    make_resumable(own)
    assert own.to_dict() == before

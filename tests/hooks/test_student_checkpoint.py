"""What the hook and tools/export_student.py write is MMDetection's alone."""

import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

from mmdet_detrdistill.checkpoints.read import CheckpointError, load_checkpoint_file
from tests.pickle_bomb import Bomb
from tests.trainings import load_tool

# In a process that cannot import this package, nor MMRazor: boxes of the first image, as a file.
DETECT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmdet_detrdistill', 'mmrazor'):
            raise ImportError(f'{name} is blocked')

sys.meta_path.insert(0, Blocker())
import torch
from mmdet.apis import inference_detector, init_detector

config, checkpoint, image, out = sys.argv[1:]
torch.load(checkpoint, weights_only=True)
model = init_detector(config, checkpoint, device='cpu')
found = inference_detector(model, image).pred_instances
assert not any(name.startswith('mmdet_detrdistill') for name in sys.modules)
classes = model.dataset_meta['classes']
torch.save(dict(boxes=found.bboxes, scores=found.scores, classes=classes), out)
"""


@pytest.fixture(scope='module')
def export_student():
    return load_tool('export_student')


def student_weights(path):
    state = load_checkpoint_file(str(path))['state_dict']
    return {name[len('architecture.') :]: value for name, value in state.items()}


def assert_same_weights(exported, training):
    found, expected = load_checkpoint_file(str(exported))['state_dict'], student_weights(training)
    assert list(found) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_best_and_last_are_written(trained):
    folder = trained.folder / 'whole'
    (best,) = folder.glob('best_*.pth')
    assert_same_weights(folder / 'student_best.pth', best)
    assert_same_weights(folder / 'student_last.pth', folder / 'epoch_3.pth')
    meta = [
        load_checkpoint_file(str(folder / f'student_{n}.pth'))['meta'] for n in ('best', 'last')
    ]
    assert [entry['epoch'] for entry in meta] == [int(best.stem[-1]), 3]
    assert meta[1]['dataset_meta']['classes'] == ('circle', 'hexagon', 'ring')


def test_the_config_is_plain(trained):
    text = (trained.folder / 'whole' / 'student.py').read_text()
    assert not any(word in text for word in ('_base_', 'detrdistill', 'mmrazor', 'teacher', 'Seed'))
    config = Config.fromfile(trained.folder / 'whole' / 'student.py')
    assert config.model.type == 'DeformableDETR'
    assert config.default_hooks.checkpoint.type == 'CheckpointHook'
    assert config.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'


def test_detects_where_this_package_cannot_be_imported(trained, tmp_path):
    folder = trained.folder / 'whole'
    image = next((trained.folder / 'data' / 'val').iterdir())
    arguments = [
        folder / 'student.py',
        folder / 'student_last.pth',
        image,
        tmp_path / 'found.pth',
    ]
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', DETECT, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / 'found.pth', weights_only=True)
    assert found['classes'] == ('circle', 'hexagon', 'ring')

    from mmdet.apis import inference_detector, init_detector

    here = init_detector(str(folder / 'student.py'), None, device='cpu')
    here.load_state_dict(student_weights(folder / 'epoch_3.pth'))
    expected = inference_detector(here, str(image)).pred_instances
    assert len(expected) == 10
    torch.testing.assert_close(found['boxes'], expected.bboxes, rtol=0, atol=0)
    torch.testing.assert_close(found['scores'], expected.scores, rtol=0, atol=0)


def test_tool_exports_any_checkpoint(trained, tmp_path, export_student):
    checkpoint = trained.folder / 'whole' / 'epoch_3.pth'
    config, weights = export_student.main(
        [str(trained.folder / 'whole.py'), str(checkpoint), '--out', str(tmp_path)]
    )
    assert (config, weights) == (
        str(tmp_path / 'student.py'),
        str(tmp_path / 'student_epoch_3.pth'),
    )
    assert_same_weights(weights, checkpoint)
    written = Config.fromfile(config)
    assert written.model == Config.fromfile(trained.folder / 'whole' / 'student.py').model


def test_tool_refuses_what_does_not_fit(trained, tmp_path, export_student):
    config = str(trained.folder / 'whole.py')
    checkpoint = str(trained.folder / 'whole' / 'epoch_3.pth')
    more = ['--cfg-options', 'model.architecture.num_queries=20']
    with pytest.raises(CheckpointError, match=r'epoch_3\.pth does not fit the student'):
        export_student.main([config, checkpoint, '--out', str(tmp_path), *more])
    bomb, target = tmp_path / 'bomb.pth', tmp_path / 'executed'
    torch.save(dict(state_dict={}, meta=Bomb(target)), bomb)
    for tool in (export_student, load_tool('test')):
        with pytest.raises(CheckpointError, match='was refused'):
            tool.main([config, str(bomb)])
    assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ['bomb.pth']

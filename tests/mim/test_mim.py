"""`mim` with an installed wheel, elsewhere: train and test by bare names, search, download.

The wheel and openmim go into an environment of their own that sees the packages of the running one,
so that nothing is installed twice. The wheel comes before the development install on its path.
"""

import pickle
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdet_detrdistill.checkpoints.read import load_checkpoint_file
from tests.docs.commands import expand, own_config, texts

pytestmark = pytest.mark.mim
ROOT = Path(__file__).parents[2]
PACKAGE = 'mmdet_detrdistill'


def config_name(pattern: str) -> str:
    (path,) = (ROOT / 'configs' / 'quickstart').glob(pattern)
    return path.name


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
    """Runs programs of an environment with the wheel and openmim, away from the clone."""
    home, wheels = tmp_path_factory.mktemp('environment'), tmp_path_factory.mktemp('wheels')
    elsewhere = tmp_path_factory.mktemp('elsewhere')

    def run(*command: str) -> str:
        done = subprocess.run(
            [str(home / 'bin' / command[0]), *command[1:]],
            cwd=elsewhere,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f'{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}'
        return done.stdout

    run.folder = elsewhere
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(home)], check=True)
    purelib = run('python', '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip()
    Path(purelib, 'shared.pth').write_text(sysconfig.get_path('purelib'))

    build = ('--no-deps', '--no-build-isolation', '--no-cache-dir', '--wheel-dir', str(wheels))
    run('python', '-m', 'pip', 'wheel', '-q', *build, str(ROOT))
    (wheel,) = wheels.glob('*.whl')
    install = ('python', '-m', 'pip', 'install', '-q')
    run(*install, 'openmim')
    run(*install, 'setuptools>=77,<81')  # openmim brings 60, which PyTorch does not accept
    run(*install, '--no-deps', '--force-reinstall', str(wheel))
    imported = run('python', '-c', f'import {PACKAGE}; print({PACKAGE}.__file__)')
    assert imported.startswith(purelib), 'the wheel, not the clone'
    return run


@pytest.fixture(scope='module')
def options(environment):
    """A few small images, and overrides for one short epoch on them."""
    subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'make_shapes.py'), str(environment.folder / 'shapes')]
        + ['--train', '4', '--val', '2', '--size', '64'],
        check=True,
    )
    return [
        'data_root=shapes',
        'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=2',
        'default_hooks.logger.interval=1',
    ]


@pytest.fixture(scope='module')
def teacher(environment, options):
    """A checkpoint in `environment.folder`, of a training by bare config name."""
    output = environment(
        *('mim', 'train', PACKAGE, config_name('deformable-detr_teacher_*.py')),
        *('--work-dir', 'teacher', '--gpus', '0', '--cfg-options', *options),
    )
    assert 'Training finished successfully' in output
    return 'teacher/epoch_1.pth'


def test_distillation_and_evaluation_by_bare_name(environment, options, teacher):
    distillation = config_name('detrdistill_*.py')
    distil = [*options, f'model.teacher_ckpt={teacher}']
    output = environment(
        *('mim', 'train', PACKAGE, distillation, '--work-dir', 'distilled'),
        *('--gpus', '0', '--cfg-options', *distil),
    )
    assert 'Training finished successfully' in output
    assert 'loss_aligned_kd' in output
    checkpoint = environment.folder / 'distilled' / 'epoch_1.pth'
    keys = load_checkpoint_file(str(checkpoint))['state_dict']
    assert any(key.startswith('architecture.') for key in keys)
    output = environment(
        *('mim', 'test', PACKAGE, distillation, '--checkpoint', 'distilled/epoch_1.pth'),
        *('--work-dir', 'tested', '--gpus', '0', '--cfg-options', *options),
    )
    assert 'Testing finished successfully' in output
    assert re.search(r'coco/bbox_mAP: -?\d', output)


def test_two_processes_on_a_cpu(environment, options):
    """mim's pytorch launcher; without a GPU tools/train.py joins the processes by gloo."""
    output = environment(
        *('mim', 'train', PACKAGE, config_name('deformable-detr_student_*.py')),
        *('--launcher', 'pytorch', '--gpus', '2', '--work-dir', 'two'),
        *('--cfg-options', *options, 'train_dataloader.batch_size=1'),
    )
    assert 'Training finished successfully' in output
    assert re.findall(r'Epoch\(train\) +\[1\]\[(\d)/2\]', output) == ['1', '2']  # four images
    assert output.count('coco/bbox_mAP:') == 1


def documented(environment, page, start):
    """Runs the commands of a page that start so, as they stand; joins what they print."""
    found = [text for text in texts(ROOT / page) if text.startswith(start)]
    assert found, f'{page} has no `{start}`'
    return '\n'.join(environment(*expand(text, environment.folder)) for text in found)


def test_own_config(environment, teacher):
    """The documented config and commands, beside a student and a teacher of one's own."""
    folder, base = environment.folder, ROOT / 'configs' / 'quickstart'
    for role in ('student', 'teacher'):
        (path,) = base.glob(f'deformable-detr_{role}_*.py')
        short = "data_root = 'shapes'\ntrain_cfg = dict(max_epochs=1)\n"
        (folder / f'my_{role}.py').write_text(f"_base_ = '{path}'\n{short}")
    (folder / 'my_teacher.pth').symlink_to(teacher)
    (folder / 'my_distill.py').write_text(own_config())
    (folder / 'CKPT').symlink_to('work_dirs/my_distill/epoch_1.pth')
    trained = documented(environment, 'docs/tutorial.md', 'mim train')
    assert 'Training finished successfully' in trained and 'loss_aligned_kd' in trained
    distilled = scores(documented(environment, 'docs/tutorial.md', 'mim test'))

    # the student alone, by MMDetection alone
    export = str(ROOT / 'tools' / 'export_student.py')
    environment('python', export, 'my_distill.py', 'CKPT', '--out', 'student')
    (written,) = (folder / 'student').glob('*.pth')
    written.rename(folder / 'student' / 'student_epoch_12.pth')
    assert scores(documented(environment, 'docs/export.md', 'mim test')) == distilled
    plain = ('mmdet', 'student/student.py', '--checkpoint', 'student/student_epoch_12.pth')
    predictions = []
    for arguments in ((PACKAGE, 'my_distill.py', '--checkpoint', 'CKPT'), plain):
        environment('mim', 'test', *arguments, '--gpus', '0', '--out', 'found.pkl')
        with open(folder / 'found.pkl', 'rb') as file:
            predictions.append([sample['pred_instances'] for sample in pickle.load(file)])
    for ours, theirs in zip(*predictions):
        assert len(ours['scores']) > 0
        for name in ('bboxes', 'scores', 'labels'):
            assert torch.equal(ours[name], theirs[name]), name


def scores(output):
    """The last line of COCO metrics that a test prints."""
    return re.findall(r'coco/bbox_mAP: -?\d.*?(?=  data_time|\n)', output)[-1]


def test_commands_of_the_model_zoo(environment):
    """Search by name and by data; download though there are no weights (openmim wants an entry)."""
    found = documented(environment, 'configs/README.md', 'mim search mmdet_detrdistill --model')
    assert found.count('config id: ') == 7
    assert 'config id: detrdistill_conditional-detr_r18-from-r101_8xb2-50e_coco' in found
    assert re.search(r'coco/published_box_ap +37\.9', found)
    found = documented(environment, 'configs/README.md', 'mim search mmdet_detrdistill --dataset')
    assert 'published_box_ap' in found and 'measured' not in found
    found = environment('mim', 'search', PACKAGE, '--dataset', 'shapes')
    assert re.findall(r'shapes/(\w+) ', found) == ['measured_box_ap'] * 3

    documented(environment, 'configs/README.md', 'mim download')
    name = 'detrdistill_dino-4scale_r18-from-r101_8xb2-12e_coco.py'
    downloaded = Config.fromfile(environment.folder / name)
    original = Config.fromfile(ROOT / 'configs' / 'dino' / name)
    assert downloaded.model.architecture == original.model.architecture
    assert downloaded.distiller == original.distiller

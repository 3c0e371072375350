"""`mim` with an installed wheel, elsewhere: train and test by bare names, search, download.

The wheel and openmim go into an environment of their own that sees the packages of the running one,
so that nothing is installed twice. The wheel comes before the development install on its path.
"""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_detrdistill.compat import load_checkpoint_file

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
    """A few small pictures, and overrides for one short epoch on them."""
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


def test_teacher_distillation_and_evaluation(environment, options):
    teacher = config_name('deformable-detr_teacher_*.py')
    distillation = config_name('detrdistill_*.py')
    output = environment(
        *('mim', 'train', PACKAGE, teacher, '--work-dir', 'teacher'),
        *('--gpus', '0', '--cfg-options', *options),
    )
    assert 'Training finished successfully' in output
    distil = [*options, 'model.teacher_ckpt=teacher/epoch_1.pth']
    output = environment(
        *('mim', 'train', PACKAGE, distillation, '--work-dir', 'distilled'),
        *('--gpus', '0', '--cfg-options', *distil),
    )
    assert 'Training finished successfully' in output
    for name in ('loss_logits_kd', 'loss_feature_kd', 'loss_assign_kd'):
        assert name in output
    checkpoint = environment.folder / 'distilled' / 'epoch_1.pth'
    keys = load_checkpoint_file(str(checkpoint))['state_dict']
    assert any(key.startswith('architecture.') for key in keys)
    output = environment(
        *('mim', 'test', PACKAGE, distillation, '--checkpoint', 'distilled/epoch_1.pth'),
        *('--work-dir', 'tested', '--gpus', '0', '--cfg-options', *options),
    )
    assert 'Testing finished successfully' in output
    assert re.search(r'coco/bbox_mAP: -?\d', output)


def test_search_finds_models_by_name_and_data(environment):
    command = ('mim', 'search', PACKAGE, '--display-width', '200')
    output = environment(*command, '--model', 'detrdistill conditional detr')
    assert output.count('config id: ') == 7
    assert 'config id: detrdistill_conditional-detr_r18-from-r101_8xb2-50e_coco' in output
    assert re.search(r'coco/published_box_ap +37\.9', output)
    found = environment(*command, '--dataset', 'coco', '--field', 'published_box_ap')
    assert 'published_box_ap' in found and 'measured' not in found
    found = environment(*command, '--dataset', 'shapes')
    assert re.findall(r'shapes/(\w+) ', found) == ['measured_box_ap'] * 3


def test_download_writes_the_whole_config(environment):
    """Though there are no weights: without an entry for them openmim stops."""
    name = config_name('detrdistill_*.py')[: -len('.py')]
    environment('mim', 'download', PACKAGE, '--config', name, '--dest', 'downloaded')
    assert [path.name for path in (environment.folder / 'downloaded').iterdir()] == [f'{name}.py']
    downloaded = Config.fromfile(environment.folder / 'downloaded' / f'{name}.py')
    original = Config.fromfile(ROOT / 'configs' / 'quickstart' / f'{name}.py')
    assert downloaded.model.architecture == original.model.architecture
    assert downloaded.distiller == original.distiller
    assert not downloaded.model.teacher.startswith(str(ROOT))
    assert Path(downloaded.model.teacher).is_file()

"""What a wheel, a source distribution and an editable install contain."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import mmdet_detrdistill

ROOT = Path(__file__).parents[1]
PACKAGE = 'mmdet_detrdistill'
PARTS = ('configs', 'tools', PACKAGE)
FILES = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'README.md', 'model-index.yml')
IGNORED = shutil.ignore_patterns('__pycache__', '.mim')


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def build_wheel(source: Path, target: Path) -> zipfile.ZipFile:
    options = ('--no-deps', '--no-build-isolation', '--no-cache-dir', '--wheel-dir', str(target))
    run(sys.executable, '-m', 'pip', 'wheel', str(source), *options, cwd=source.parent)
    (wheel,) = target.glob('*.whl')
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope='module')
def project(tmp_path_factory) -> Path:
    """A copy of what packaging reads."""
    folder = tmp_path_factory.mktemp('project') / 'source'
    folder.mkdir()
    for name in PARTS:
        shutil.copytree(ROOT / name, folder / name, ignore=IGNORED)
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope='module')
def wheel(project, tmp_path_factory) -> zipfile.ZipFile:
    return build_wheel(project, tmp_path_factory.mktemp('wheel'))


def files_below(folder: Path, suffixes: tuple) -> set:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob('*')
        if path.suffix in suffixes and '__pycache__' not in path.parts
    }


def names_below(wheel: zipfile.ZipFile, folder: str) -> set:
    return {name[len(folder) :] for name in wheel.namelist() if name.startswith(folder)}


def test_wheel_has_all_modules(wheel, project):
    modules = files_below(project / PACKAGE, ('.py', '.typed'))
    assert {name for name in names_below(wheel, f'{PACKAGE}/') if '.mim/' not in name} == modules


def test_wheel_has_the_mim_extension(wheel, project):
    configs = files_below(project / 'configs', ('.py', '.yml', '.md'))
    assert configs and names_below(wheel, f'{PACKAGE}/.mim/configs/') == configs
    tools = names_below(wheel, f'{PACKAGE}/.mim/tools/')
    assert tools == files_below(project / 'tools', ('.py', '.html'))
    assert {'train.py', 'test.py'} <= tools
    assert f'{PACKAGE}/.mim/model-index.yml' in wheel.namelist()


def test_wheel_build_leaves_no_extension_in_the_source(wheel, project):
    assert not (project / PACKAGE / '.mim').exists()


def test_wheel_has_nothing_of_an_earlier_build(wheel, project, tmp_path):
    stale = project / 'build' / 'lib' / PACKAGE
    assert stale.is_dir(), 'the first build left its tree'
    (stale / 'deleted.py').touch()
    (stale / '.mim' / 'configs' / 'deleted.py').touch()
    again = build_wheel(project, tmp_path)
    assert sorted(again.namelist()) == sorted(wheel.namelist())


def test_metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith('.dist-info/METADATA')]
    metadata = message_from_string(wheel.read(name).decode())
    assert metadata['Version'] == mmdet_detrdistill.__version__
    assert metadata['Requires-Python'] == '>=3.9'
    assert metadata['Author'] and metadata.get_all('Project-URL')
    assert 'Apache-2.0' in (metadata['License'] or metadata['License-Expression'])
    required = metadata.get_all('Requires-Dist')
    hard = {item for item in required if 'extra ==' not in item}
    assert hard == {'torch>=1.13', 'numpy', 'scipy', 'pycocotools'}
    assert set(metadata.get_all('Provides-Extra')) == {
        'openmmlab',
        'onedl',
        'text',
        'fast',
        'gpu',
        'dev',
        'docs',
    }


def test_wheel_from_a_source_distribution(wheel, project, tmp_path):
    run(
        *(sys.executable, '-m', 'build', '--sdist', '--no-isolation', '--outdir', str(tmp_path)),
        cwd=project,
    )
    (archive,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / 'unpacked')
    (source,) = (tmp_path / 'unpacked').iterdir()
    assert (source / 'LICENSE').is_file()
    rebuilt = build_wheel(source, tmp_path / 'wheel')
    assert sorted(rebuilt.namelist()) == sorted(wheel.namelist())


def test_editable_install_links_the_extension(project, tmp_path):
    environment = tmp_path / 'site'
    options = ('--no-deps', '--no-build-isolation', '--target', str(environment))
    compat = ('--config-settings', 'editable_mode=compat')
    for settings in ((), compat):
        run(
            *(sys.executable, '-m', 'pip', 'install', '--upgrade', *options, *settings),
            *('--editable', str(project)),
            cwd=tmp_path,
        )
        extension = project / PACKAGE / '.mim'
        assert sorted(os.listdir(extension)) == ['configs', 'model-index.yml', 'tools']
        for link in extension.iterdir():
            assert link.is_symlink() and not os.path.isabs(os.readlink(link))
            assert link.resolve() == (project / link.name).resolve()
        (path_entry,) = environment.glob('*.pth')
        assert path_entry.read_text().strip() == str(project)
    shutil.rmtree(extension)

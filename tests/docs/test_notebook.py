"""The notebook runs to its last cell, in its short form, and is stored without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / 'docs' / 'quickstart.ipynb'


def test_is_stored_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(
        not cell.outputs and cell.execution_count is None for cell in cells if 'outputs' in cell
    )
    assert NOTEBOOK.stat().st_size < 30_000


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    """Its cells after a run in a folder laid out like the clone."""
    folder = tmp_path_factory.mktemp('clone')
    for name in ('tools', 'configs', 'docs', 'mmdet_detrdistill'):
        (folder / name).symlink_to(ROOT / name)
    kernels = tmp_path_factory.mktemp('kernels')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('FAST', '1')
        patch.setenv('PYTHONPATH', str(ROOT))
        patch.setenv('PYTHONWARNINGS', 'ignore')
        patch.setenv('MPLBACKEND', 'module://matplotlib_inline.backend_inline')
        patch.setenv('IPYTHONDIR', str(kernels))
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        resources = dict(metadata=dict(path=str(folder)))
        NotebookClient(notebook, timeout=600, resources=resources).execute()
    return folder, notebook.cells


def test_trains_distils_and_checks(executed):
    folder, cells = executed
    text = ''.join(out.text for cell in cells for out in cell.get('outputs', []) if 'text' in out)
    for name in ('teacher', 'student alone', 'student distilled'):
        assert f'{name}: ' in text
    assert 'FITS' in text
    assert (folder / 'work_dirs' / 'notebook-fast' / 'student.pth').is_file()


def test_draws_images_and_masks(executed):
    _, cells = executed
    images = [
        cell
        for cell in cells
        for out in cell.get('outputs', [])
        if 'image/png' in out.get('data', {})
    ]
    assert len(images) == 4, 'data, mAP, masks, predictions'
    assert any('target_aware_mask' in cell.source for cell in images)

"""Raise one error, at import, for everything that is missing or incompatible."""

import importlib
import importlib.util
import platform
from typing import Dict, List, Optional

# import name -> what to install for it
PARTS = {
    'mmengine': 'mmengine (or onedl-mmengine)',
    'mmcv': 'mmcv (or onedl-mmcv)',
    'mmdet': 'mmdet (or onedl-mmdetection)',
    'mmrazor': 'mmrazor==1.0.0',
    'joblib': 'joblib (MMRazor imports it without requiring it)',
}
HOW_TO_INSTALL = """\
In a clone of this project, install what is missing with the extra for your stack:
  pip install --no-build-isolation ".[openmmlab]"   # upstream OpenMMLab
  pip install --no-build-isolation ".[onedl]"       # the maintained fork
or let `make setup` build a complete environment."""


def is_present(name: str) -> bool:
    """Tell whether module `name` can be found; for a dotted name its parent is imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def import_problem(name: str) -> Optional[str]:
    """Say why module `name` cannot be imported, or return None if it can."""
    try:
        importlib.import_module(name)
    except (ImportError, AssertionError, AttributeError, OSError) as error:
        problem = f'{name} cannot be imported: {type(error).__name__}: {error}'
        if 'libGL' in str(error):
            problem += ' (install the system library, or opencv-python-headless in its place)'
        return problem
    return None


def needs_pkg_resources() -> bool:
    """Tell whether this MMEngine finds packages through setuptools' `pkg_resources`."""
    from mmengine.utils import get_installed_path

    try:
        get_installed_path('mmengine')
    except ImportError as error:
        return 'pkg_resources' in str(error)
    return False


def numpy_problem() -> Optional[str]:
    """Say why tensors cannot become arrays, or return None (PyTorch before 2.3 needs NumPy 1)."""
    import numpy
    import torch

    try:
        torch.zeros(1).numpy()
    except RuntimeError as error:
        versions = f'PyTorch {torch.__version__} cannot use NumPy {numpy.__version__} ({error})'
        return f"{versions}: pip install 'numpy<2', or take PyTorch 2.3 or later"
    return None


def operator_problem() -> Optional[str]:
    """Say why MMCV's compiled operators cannot be used, or return None."""
    if not is_present('mmcv._ext'):
        return (
            'mmcv has no compiled operators (mmcv._ext): it is mmcv-lite, or was built without '
            'them. Reinstall: MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir '
            '--force-reinstall --no-deps mmcv==2.1.0'
        )
    problem = import_problem('mmcv._ext')
    if problem is None:
        return None
    return (
        f'{problem}. It was probably built for another PyTorch; rebuild: MMCV_WITH_OPS=1 '
        'pip install --no-build-isolation --no-cache-dir --no-binary mmcv --force-reinstall '
        '--no-deps mmcv==2.1.0'
    )


def find_problems() -> List[str]:
    """List everything that is wrong with the installation, each with its remedy."""
    missing = [name for name in PARTS if not is_present(name)]
    problems = [f'{name} is not installed: pip install {PARTS[name]}' for name in missing]
    problems += filter(None, [numpy_problem()])
    if 'mmengine' not in missing:
        problem = import_problem('mmengine')
        if problem:
            return [*problems, problem]
        if not is_present('pkg_resources') and needs_pkg_resources():
            problems.append(
                'this mmengine needs pkg_resources, which setuptools 81 and later may lack: '
                "pip install 'setuptools<81'"
            )
    if 'mmcv' not in missing and 'mmengine' not in missing:
        problem = import_problem('mmcv') or operator_problem()
        if problem:
            problems.append(problem)
        elif 'mmdet' not in missing:
            problem = import_problem('mmdet')  # asserts the mmcv and mmengine that it accepts
            if problem:
                problems.append(problem)
    return problems


def check_environment() -> None:
    """Check that all parts are installed and compatible.

    Raises:
        ImportError: one, that lists every problem and says what to install.
    """
    problems = find_problems()
    if problems:
        listed = '\n'.join(f'  - {problem}' for problem in problems)
        raise ImportError(f'mmdet_detrdistill cannot run here:\n{listed}\n{HOW_TO_INSTALL}')


def versions() -> Dict[str, str]:
    """Return the versions of Python, PyTorch, NumPy, each part of OpenMMLab and this package."""
    names = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmrazor', 'mmdet_detrdistill')
    installed = {name: str(importlib.import_module(name).__version__) for name in names}
    return {'python': platform.python_version(), **installed}

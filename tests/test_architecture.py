"""The direction of imports, and where detector families may be named."""

import ast
from pathlib import Path

import pytest
from graphlib import TopologicalSorter

PACKAGE = Path(__file__).parents[1] / 'mmdet_detrdistill'
FILES = sorted(PACKAGE.rglob('*.py'))
FILES = [path for path in FILES if '.mim' not in path.parts]
FAMILIES = {
    'DETR',
    'ConditionalDETR',
    'DABDETR',
    'DeformableDETR',
    'DINO',
    'DDQDETR',
    'GroundingDINO',
    'RTDETR',
    'CoDETR',
    'SparseRCNN',
}
#: a module may import those before it, never one after it
LAYERS = [
    'functional',
    'compat',
    'registry',
    'config',
    'checkpoints',
    'detectors',
    'losses',
    'distillation',
    'visualization',
    'hooks',
    'check',
    'api',
]


def name_of(path):
    return path.relative_to(PACKAGE).with_suffix('').parts


def imports_of(path):
    """(own part, or '' for another package; top-level name) of each import."""
    package = ('mmdet_detrdistill', *name_of(path))[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield '', alias.name.split('.')[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield '', node.module.split('.')[0]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            target = (*base, *(node.module or '').split('.'))
            parts = [part for part in target if part][1:]
            yield (parts[0] if parts else node.names[0].name), 'mmdet_detrdistill'


def ids(path):
    return '/'.join(name_of(path))


@pytest.mark.parametrize('path', [f for f in FILES if 'functional' in f.parts], ids=ids)
def test_functional_needs_torch_and_scipy_only(path):
    """Besides the standard library; an optional solver in the one file that needs it."""
    allowed = {'torch', 'scipy', 'numpy', 'typing', 'os', 'concurrent', 'functools', 'dataclasses'}
    solvers = dict(shortest_paths='numba', gpu_assignment='torch_linear_assignment')
    allowed |= {solvers.get(path.stem, '')}
    for own, package in imports_of(path):
        assert own in ('', 'functional')
        assert own or package in allowed, package


@pytest.mark.parametrize('path', [f for f in FILES if name_of(f)[0] in LAYERS], ids=ids)
def test_imports_point_downwards(path):
    level = LAYERS.index(name_of(path)[0])
    for own, _ in imports_of(path):
        if own in LAYERS:
            assert LAYERS.index(own) <= level, f'{ids(path)} imports {own}'


def test_no_import_leads_back():
    """Neither directly nor through other modules, functions' own imports included."""
    found = {}
    for path in FILES:
        package = name_of(path)[:-1]
        found[name_of(path)] = targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1]
                base = (*base, *(node.module or '').split('.')) if node.module else base
                targets |= {base, (*base, '__init__'), *((*base, n.name) for n in node.names)}
    graph = {name: targets & set(found) - {name} for name, targets in found.items()}
    tuple(TopologicalSorter(graph).static_order())  # graphlib.CycleError names the modules


@pytest.mark.parametrize('path', FILES, ids=ids)
def test_families_are_named_in_adapters_and_injection_only(path):
    if name_of(path)[0] == 'detectors' or name_of(path)[:2] == ('losses', 'injection'):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            assert node.id not in FAMILIES
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in FAMILIES

"""Folder READMEs, metafiles and model-index.yml agree with the configs, and with each other."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ALL = sorted(p for p in (ROOT / 'configs').iterdir() if p.is_dir() and p.name[0] != '_')
FOLDERS = [folder for folder in ALL if (folder / 'metafile.yml').exists()]
METAFILES = {
    folder.name: yaml.safe_load((folder / 'metafile.yml').read_text()) for folder in FOLDERS
}
KINDS = {'published box AP', 'measured box AP'}
every_folder = pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
PUBLISHED = [f for f in FOLDERS if f.name not in ('quickstart', 'coco_format')]


def models(folder):
    return {model['Name']: model for model in METAFILES[folder.name]['Models']}


def metrics(model):
    (result,) = model.get('Results', [dict(Metrics={})])
    return result['Metrics']


def tables(text):
    """Every table of a page: the names of its columns, and rows as {column: cell}."""
    found = []
    for block in re.findall(r'^\|.*(?:\n\|.*)+', text, re.MULTILINE):
        header, _, *rows = [
            [cell.strip() for cell in line.strip('|').split('|')] for line in block.splitlines()
        ]
        found.append((header, [dict(zip(header, row)) for row in rows]))
    return found


def number(cell):
    """The first number of a cell; None for `-`."""
    match = re.match(r'\d+\.\d', cell)
    assert match or cell == '-', cell
    return float(match.group()) if match else None


def test_a_folder_has_a_metafile_or_is_named_as_an_experiment():
    readme = (ROOT / 'configs' / 'README.md').read_text()
    for folder in ALL:
        assert (f'[{folder.name}](' if folder in FOLDERS else f'`{folder.name}`') in readme, folder


@every_folder
def test_metafile_and_readme_list_the_folder(folder):
    listed = METAFILES[folder.name]
    files = {f'configs/{folder.name}/{path.name}' for path in folder.glob('*.py')}
    assert {model['Config'] for model in listed['Models']} == files
    assert all(model['Name'] == Path(model['Config']).stem for model in listed['Models'])
    collections = {collection['Name'] for collection in listed['Collections']}
    assert {model['In Collection'] for model in listed['Models']} == collections
    assert {c['README'] for c in listed['Collections']} == {f'configs/{folder.name}/README.md'}
    readme = (folder / 'README.md').read_text()
    assert all(Path(name).name in readme for name in files)


def test_index_imports_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index == {'Import': [f'configs/{folder.name}/metafile.yml' for folder in FOLDERS]}


@every_folder
def test_each_number_is_published_or_measured_with_its_source(folder):
    for name, model in models(folder).items():
        found = metrics(model)
        assert set(found) <= KINDS, name
        assert bool(found) == ('Source of Results' in model['Metadata']), name
        epochs = int(re.search(r'-(\d+)e_', name).group(1))
        assert model['Metadata']['Epochs'] == epochs
        assert model['Weights'] == [''], 'weights exist: give their URL and describe them'


@pytest.mark.parametrize('folder', PUBLISHED, ids=lambda folder: folder.name)
def test_readme_has_the_metafile_s_numbers(folder):
    listed, seen = models(folder), set()
    for header, rows in tables((folder / 'README.md').read_text()):
        assert all('published' in c or 'measured' in c for c in header if 'istilled' in c), header
        for row in rows:
            name = row['config'].strip('`')[: -len('.py')]
            found = metrics(listed[name])
            assert number(row['distilled, published']) == found.get('published box AP'), name
            assert number(row['distilled, measured']) == found.get('measured box AP'), name
            seen.add(name)
            student = name.replace('detrdistill_', '').replace('-from-r101', '')
            if student in listed:
                alone = metrics(listed[student]).get('published box AP')
                assert number(row.get('student alone, published', '-')) == alone, student
                seen.add(student)
    assert seen == set(listed), 'the README has no row for it'


@pytest.mark.parametrize(('index', 'name'), [(0, 'quickstart'), (1, 'coco_format')])
def test_the_main_readme_has_the_measured_numbers(index, name):
    """The first tables with a column mAP: the quickstart, then BCCD; student +- spread."""
    measured = [
        rows for header, rows in tables((ROOT / 'README.md').read_text()) if 'mAP' in header
    ]
    found = {row['']: number(row['mAP']) for row in measured[index]}
    listed = {
        key: metrics(model)['measured box AP']
        for model in METAFILES[name]['Models']
        for key, mark in (
            ('teacher', 'detr_teacher_'),
            ('student alone', 'detr_student_'),
            ('student distilled', 'student-from-teacher_'),
        )
        if mark in model['Name']
    }
    assert listed == found, f'configs/{name}/metafile.yml and README.md differ'

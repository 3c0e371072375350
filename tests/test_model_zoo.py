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


def sections(folder):
    """Tables of a README by heading; those before the first heading under ''."""
    parts = re.split(r'^## (.+)$', (folder / 'README.md').read_text(), flags=re.MULTILINE)
    return {name: tables(text) for name, text in zip(['', *parts[1::2]], parts[::2])}


@every_folder
def test_published_and_measured_never_share_a_table(folder):
    """Two headings, with the same rows where anything is published; no number elsewhere."""
    found = sections(folder)
    published, measured = found.pop('Published'), found.pop('Measured here')
    rows = [
        [(row['config'], len(row)) for _, rows in kind for row in rows]
        for kind in (published, measured)
    ]
    assert rows[1] and rows[0] in ([], rows[1])
    for name, others in found.items():
        assert not any(
            re.search(r'\d\.\d', cell)
            for _, rows in others
            for row in rows
            for cell in row.values()
        ), name


@every_folder
@pytest.mark.parametrize(
    ('heading', 'kind'), [('Published', 'published box AP'), ('Measured here', 'measured box AP')]
)
def test_readme_has_the_metafile_s_numbers(folder, heading, kind):
    listed = {name: metrics(model).get(kind) for name, model in models(folder).items()}
    shown = dict.fromkeys(listed)
    for header, rows in sections(folder)[heading]:
        for row in rows:
            name = row['config'].strip('`')[: -len('.py')]
            if 'mAP' in header:
                shown[name] = number(row['mAP'])
                continue
            shown[name] = number(row['distilled'])
            student = name.replace('detrdistill_', '').replace('-from-r101', '')
            if student in listed:  # others are configs of MMDetection
                shown[student] = number(row['alone'])
    assert shown == listed, f'configs/{folder.name}/: README.md and metafile.yml differ'


def test_the_main_readme_has_the_measured_numbers():
    """The first table with a column mAP is the quickstart's; student +- spread."""
    measured = [
        rows for header, rows in tables((ROOT / 'README.md').read_text()) if 'mAP' in header
    ]
    found = {row['']: number(row['mAP']) for row in measured[0]}
    listed = {
        key: metrics(model)['measured box AP']
        for model in METAFILES['quickstart']['Models']
        for key, mark in (
            ('teacher', 'detr_teacher_'),
            ('student alone', 'detr_student_'),
            ('student distilled', 'student-from-teacher_'),
        )
        if mark in model['Name']
    }
    assert listed == found, 'configs/quickstart/metafile.yml and README.md differ'

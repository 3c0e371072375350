"""Every command of the pages is run, as it stands where that takes seconds.

The pages' own files (my_student.py, FOLDER, ...) are small here, see `commands.lay`. What needs
minutes, another environment or a GPU is named below with the place that runs it.
"""

import re
import shlex
from pathlib import Path

import mmdet
import pytest

from tests.docs.commands import PAGES, ROOT, Command, Python, expand, lay, texts

# (command, what runs it): a test as file::name, a line of .ci/run, or a longer command of the pages
ELSEWHERE = [
    (r'make (quickstart|test|docs)( ARGS=.*)?', '.ci/run'),
    (r'make (unit|format|setup source \.venv/bin/activate|setup source activate)', 'Makefile'),
    (r'mim train mmdet_detrdistill my_distill\.py', 'tests/mim/test_mim.py::test_own_config'),
    (r'mim test mmdet_detrdistill my_distill\.py .*', 'tests/mim/test_mim.py::test_own_config'),
    (r'mim test mmdet student/.*', 'tests/mim/test_mim.py::test_own_config'),
    (r'mim (search|download) .*', 'tests/mim/test_mim.py::test_commands_of_the_model_zoo'),
    (
        r'mim train (mmdet|mmdet_detrdistill) \w.*_coco\.py( .*)?',
        'tests/docs/test_commands.py::test_trainings_of_the_model_zoo',
    ),
    (
        r'python tools/distill\.py mmdet::.*',  # fetches weights of a backbone
        'tests/tools/test_distill.py::test_stock_config_is_written_checked_and_trained',
    ),
    (
        r'python tools/export_onnx\.py .*',
        'tests/tools/test_export_onnx.py::test_distilled_student',
    ),
    (r'python tools/report\.py .*', 'tests/tools/test_report.py::test_card_by_value'),
    (
        r'python tools/visualize\.py .*',
        'tests/tools/test_visualize.py::test_images_with_and_without_ground_truth',
    ),
    (
        r'python benchmarks/study(_results)?\.py.*',
        'tests/benchmarks/test_study.py::test_trains_what_is_missing_and_goes_on',
    ),
    (r'python tools/train\.py my_teacher\.py', 'python tools/train.py my_student.py'),
    (r'python tools/distill\.py .*/epoch_12\.pth', 'python tools/distill.py my_student.py'),
    (r'pip install torch', 'tools/setup_env.sh'),
    (r'pip install setuptools>=77,<81 wheel ninja', 'tools/setup_env.sh'),
    (r'pip install --no-build-isolation mmcv==2\.1\.0', 'tools/setup_env.sh'),
    (r'pip install --no-build-isolation \.\[openmmlab\]', 'tools/setup_env.sh'),
    (
        r'python tools/quickstart\.py --data-root \S+',
        'python tools/quickstart.py --data-root FOLDER --cfg-options train_ann=labels/a.json',
    ),
    (
        r'python tools/train\.py my_distill\.py --amp',  # MMEngine's wrapper wants a GPU
        'tests/tools/test_train_and_test.py::test_amp',
    ),
]
ELSEWHERE += [  # minutes each
    (
        r'python benchmarks/gpu\.py .*',
        'tests/benchmarks/test_gpu.py::test_every_part_runs_on_a_cpu',
    ),
    (r'python benchmarks/benchmark\.py .*', 'tests/benchmarks/test_benchmark.py::test_sweep'),
    (
        r'python benchmarks/benchmark_losses\.py feature',
        'tests/benchmarks/test_benchmark.py::test_feature_forms_have_the_values_of_the_masks',
    ),
    (
        r'python benchmarks/benchmark_losses\.py (record|match) .*',
        'tests/benchmarks/test_benchmark.py::test_every_way_of_matching_finds_the_same_cost',
    ),
]
OWN_FILES = {'CONFIG': 'my_distill.py', 'CHECKPOINT': 'work_dirs/my_distill/epoch_12.pth'}
SHORTER = [  # words put behind the script's name, and at the end
    (r'python tools/quickstart\.py .*', ['--fast'], []),
    (r'python tools/train\.py .*--cfg-options .*', [], ['train_cfg.max_epochs=1']),
]
PRINTS = [  # what a command must have printed
    (r'python tools/check\.py .*', r'FITS\n$'),
    (r'python tools/train\.py my_distill\.py$', r'loss_aligned_kd.*[\s\S]*coco/bbox_mAP'),
    (r'python tools/distill\.py .*', r'FITS\n[\s\S]*coco/bbox_mAP'),
    (r'python tools/test\.py .*', r'coco/bbox_mAP: -?\d'),
    (r'python tools/choose_weights\.py .*', r'loss_aligned_kd'),
    (r'python tools/quickstart\.py .*', r'student distilled'),
]


@pytest.fixture(scope='module')
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp('desk')
    python = Python(folder)
    lay(folder, python)
    yield python
    python.close()


def place_of(line):
    return next((where for pattern, where in ELSEWHERE if re.fullmatch(pattern, line)), None)


def all_texts():
    """(page, text) of every command, each text once."""
    found = {}
    for page in PAGES:
        for text in texts(page):
            found.setdefault(re.sub(r'\s+#.*', '', text), page.relative_to(ROOT).as_posix())
    return [(page, text) for text, page in found.items()]


def test_commands_are_found():
    pages = {page for page, _ in all_texts()}
    assert {'README.md', 'docs/faq.md', 'docs/configs.md', 'configs/dino/README.md'} <= pages
    assert ('docs/tutorial.md', 'python tools/check.py my_distill.py') in all_texts()


@pytest.mark.parametrize(('page', 'text'), all_texts(), ids=lambda value: value[:60])
def test_command(page, text, desk):
    if place_of(text):
        return  # see test_places_exist
    command = Command(page, text, expand(text, desk.folder))
    line = ' '.join(command.words)
    if place_of(line):
        return
    assert command.words[0] == 'python', f'{page}: say in ELSEWHERE what runs `{line}`'
    arguments = [OWN_FILES.get(word, word) for word in command.words[1:]]
    for pattern, front, back in SHORTER:
        if re.fullmatch(pattern, line):
            arguments = [arguments[0], *front, *arguments[1:], *back]
    output = desk(arguments)
    for pattern, expected in PRINTS:
        if re.fullmatch(pattern, line):
            assert re.search(expected, output), f'{line} prints\n{output[-3000:]}'


@pytest.mark.parametrize(('pattern', 'where'), ELSEWHERE)
def test_places_exist(pattern, where):
    if where.startswith('python '):
        assert any(text.startswith(where) for _, text in all_texts()), where
    elif '::' in where:
        file, name = where.split('::')
        assert f'\ndef {name}(' in (ROOT / file).read_text(), where
    else:
        assert (ROOT / where).is_file()


def test_make_in_ci():
    """In its fast form where there is one."""
    steps = (ROOT / '.ci' / 'run').read_text()
    for targets in (
        'quickstart ARGS=--fast',
        'test ARGS=',
        '--jobs 2 --output-sync lint types docs',
    ):
        assert f'\nstep make {targets}' in steps


def test_code_that_uses_the_student(desk):
    """The second example of docs/export.md, with what the command above it wrote."""
    page = (ROOT / 'docs' / 'export.md').read_text()
    _, code = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    desk(['tools/export_student.py', 'my_distill.py', 'early.pth', '--out', 'student'])
    code = code.replace('epoch_12', 'early').replace('image.jpg', 'FOLDER/val/000000.png')
    printed = desk(
        ['-c', f'{code}\nprint(type(detector).__name__, len(detector.dataset_meta["classes"]))']
    )
    assert printed.endswith('DeformableDETR 8\n')


def test_trainings_of_the_model_zoo():
    """The `mim train` commands of configs/: configs that are there, and options that fit.

    They stand in the headers of the configs too: tests/test_configs.py holds those to the teacher
    that is distilled, and takes a step with each of our configs.
    """
    stock = Path(mmdet.__file__).parent / '.mim' / 'configs'
    headers = [path.read_text() for path in (ROOT / 'configs').glob('*/detrdistill_*.py')]
    known = {squeeze(text) for text in headers}
    count = 0
    for page in PAGES:
        for text in texts(page):
            if not re.match(r'mim train \w+ \S+_coco\.py', text):
                continue
            package, name = shlex.split(text)[2:4]
            folder = stock if package == 'mmdet' else ROOT / 'configs'
            assert len(list(folder.rglob(name))) == 1, name
            if '--gpus' in text:
                assert any(squeeze(text) in header for header in known), f'{page.name}: {text}'
            count += 1
    assert count > 8


def squeeze(text):
    return ' '.join(re.sub(r'[#\\]', ' ', text).split())

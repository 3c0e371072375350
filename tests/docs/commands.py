"""The commands of the pages, and a folder in which the files that they name exist."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import List, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'README_zh-CN.md', ROOT / 'CONTRIBUTING.md']
PAGES += [ROOT / 'docs' / 'tutorial.md']  # first: others use what it trains
PAGES += sorted(set((ROOT / 'docs').glob('*.md')) - set(PAGES)) + sorted(
    (ROOT / 'configs').glob('**/README.md')
)
SHELL = ('', 'sh', 'bash', 'shell')  # other text stands in blocks marked `text`
PROGRAMS = ('python', 'mim', 'make', 'pip', 'git', 'cd', 'source')
BLOCK = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)


class Command(NamedTuple):
    """`page` says where it stands, `words` are what the shell makes of `text`."""

    page: str
    text: str
    words: List[str]


def texts(page: Path) -> List[str]:
    """The commands of a page, one string each: lines of shell blocks, `$ ` lines of logs."""
    found: List[str] = []
    for language, block in BLOCK.findall(page.read_text(encoding='utf-8')):
        lines = block.replace('\\\n', ' ').splitlines()
        if language == 'console':
            found += [line[2:] for line in lines if line.startswith('$ ')]
        elif language in SHELL:
            found += [line for line in lines if line.strip() and not line.startswith('#')]
    return [' '.join(text.split()) for text in found]


def expand(text: str, folder: Path) -> List[str]:
    """Words of a command as bash passes them: comments gone, patterns and `$(...)` expanded."""
    script = 'shopt -s failglob\n'
    for name in PROGRAMS:
        script += f'{name}() {{ printf "%s\\0" {name} "$@"; }}\n'
    done = subprocess.run(
        ['bash', '-c', script + text.replace('.venv/bin/', '')],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f'bash does not understand `{text}`: {done.stderr}'
    return done.stdout.split('\0')[:-1]


class Python:
    """Starts `python ARGUMENTS` in a folder without importing PyTorch anew each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONWARNINGS='ignore')
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name('warm.py'))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
        )

    def __call__(self, arguments: List[str]) -> str:
        """What it prints.

        Raises:
            AssertionError: it fails; ends with its last lines.
        """
        log = self.folder / 'output.log'
        self.process.stdin.write(json.dumps(dict(arguments=arguments, log=str(log))) + '\n')
        self.process.stdin.flush()
        code = self.process.stdout.readline().strip()
        output = log.read_text(errors='replace')
        assert code == '0', f'python {" ".join(arguments)} ends with {code}:\n{output[-3000:]}'
        return output

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


STUDENT = """
_base_ = 'configs/_base_/deformable-detr_small_coco-format.py'
data_root = 'FOLDER'
small = dict(type='Resize', scale=(64, 64))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    small,
    dict(type='PackDetInputs'),
]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_epochs=12, val_interval=12)
model = dict(num_queries=20, decoder=dict(num_layers=2))
"""


def own_config() -> str:
    """my_distill.py, as docs/configs.md has it."""
    page = (ROOT / 'docs' / 'configs.md').read_text()
    return re.search(r'```python\n(# my_distill\.py\n.*?)```', page, re.DOTALL).group(1)


def lay(folder: Path, python: Python) -> None:
    """Put the files that the pages talk of into a folder: tools, configs, data, checkpoints."""
    for name in ('tools', 'configs', 'docs', 'tests', 'mmdet_detrdistill'):
        (folder / name).symlink_to(ROOT / name)
    for name, train in (('shapes', '32'), ('coco_format', '8')):
        sizes = ['--train', train, '--val', '4', '--size', '64']
        python(['tools/make_shapes.py', f'data/{name}', *sizes])
    data = folder / 'data' / 'coco_format'
    for other in ('FOLDER', 'path/to/data'):
        (folder / other).parent.mkdir(parents=True, exist_ok=True)
        (folder / other).symlink_to(data)
    (data / 'labels').mkdir()
    for split, name in (('train', 'a'), ('val', 'b')):
        (data / 'labels' / f'{name}.json').symlink_to(data / f'annotations/instances_{split}.json')
    (data / 'images').mkdir()
    for image in [*data.glob('val/*'), *data.glob('train/*')]:
        if not (data / 'images' / image.name).exists():
            (data / 'images' / image.name).symlink_to(image)

    (folder / 'my_student.py').write_text(STUDENT)
    (folder / 'my_teacher.py').write_text("_base_ = 'my_student.py'\n")
    (folder / 'my_distill.py').write_text(own_config())
    save = str(Path(__file__).with_name('checkpoints.py'))
    python([save, 'my_teacher.py', 'my_teacher.pth'])
    python([save, 'my_distill.py', 'early.pth', 'late.pth'])
    quickstart = 'configs/quickstart/'
    pair = 'detrdistill_deformable-detr_student-from-teacher_1xb8-6e_shapes.py'
    for role, config, epoch in (
        ('teacher', 'deformable-detr_teacher_1xb8-10e_shapes.py', 10),
        ('student', 'deformable-detr_student_1xb8-6e_shapes.py', 6),
        ('distilled', pair, 6),
    ):
        target = folder / f'work_dirs/quickstart/{role}-seed0-00000000/epoch_{epoch}.pth'
        target.parent.mkdir(parents=True)
        python([save, quickstart + config, str(target)])

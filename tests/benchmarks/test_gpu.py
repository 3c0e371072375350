"""benchmarks/gpu.py: everything is planned, runs to the end, and no part loses another."""

import json

import pytest

from tests.benchmarks.test_benchmark import tool

gpu = tool('gpu')


def results(folder):
    return json.loads((folder / 'gpu.json').read_text())


def plan(*options, monkeypatch):
    """The parts of a command line."""
    found = []
    original = gpu.make_parts
    monkeypatch.setattr(gpu, 'make_parts', lambda args: found.extend(original(args)) or [])
    gpu.main(list(options))
    return found


def test_every_part_runs_on_a_cpu(tmp_path):
    code = gpu.main([str(tmp_path), '--device', 'cpu', '--fast', '--minutes', '60'])
    found = results(tmp_path)
    assert {name: part['status'] for name, part in found.items() if part['status'] != 'ok'} == {}
    assert code == 0
    assert list(found) == [
        'tests', 'step small float32', 'shapes', 'teacher', 'distilled', 'resumed', 'exported',
    ]  # fmt: skip
    assert found['step small float32']['report']['seconds']['aligned']
    assert 'resumed epoch: 1, iter: 1' in (tmp_path / 'resumed.log').read_text()
    assert (tmp_path / 'student_epoch_2.pth').exists()


def test_the_plan_for_a_gpu(tmp_path, monkeypatch):
    """Both detectors in every form, the plain ones first; what it reads is there."""
    parts = plan(str(tmp_path), monkeypatch=monkeypatch)
    names = [part.name for part in parts]
    assert names[:3] == ['tests', 'step deformable float32', 'step dino float32']
    for dtype in ('float32', 'float16', 'bfloat16'):
        for detector in ('deformable', 'dino'):
            step = f'step {detector} {dtype}'
            assert step in names and f'{step} compiled' in names
    assert len({part.name for part in parts}) == len(parts)
    (mixed,) = (part for part in parts if part.name == 'mixed precision')
    assert '--amp' in mixed.arguments
    read = [str(word).split('::')[0] for part in parts for word in part.arguments]
    read = {word for word in read if word.startswith(('benchmarks/', 'configs/', 'te', 'tools/'))}
    assert len(read) == 10 and all((gpu.ROOT / word).exists() for word in read)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Exit code and status by name of parts that are Python programs."""

    def run(*programs, options=()):
        parts = [
            gpu.Part(f'part {i}', limit, ['-c', text]) for i, (text, limit) in enumerate(programs)
        ]
        monkeypatch.setattr(gpu, 'make_parts', lambda args: parts)
        code = gpu.main([str(tmp_path), *options])
        return code, [part['status'] for part in results(tmp_path).values()]

    return run


def test_one_part_loses_no_other(run):
    code, found = run(('1 / 0', 30), ('import time; time.sleep(60)', 0.5), ('print(1)', 30))
    assert found == ['failed: exit code 1', 'failed: out of time', 'ok']
    assert code == 1


def test_no_time_left(run):
    assert run(('', 30), options=['--minutes', '0']) == (1, ['skipped: no time left'])


def test_a_known_limit_is_no_failure(run):
    text = 'raise RuntimeError("\\"ms_deform\\" not implemented for \'BFloat16\'")'
    assert run((text, 30)) == (0, ["unsupported: not implemented for 'BFloat16'"])


def test_only_some_parts(run, tmp_path):
    run(('print(1)', 30), ('1 / 0', 30))
    assert run(('1 / 0', 30), ('print(2)', 30), options=['--only', 'part 1']) == (0, ['ok', 'ok'])
    assert results(tmp_path)['part 1']['output'] == '2\n'

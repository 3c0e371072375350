"""tools/visualize.py: images of validation data with ground truth, of other images without."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from tests.tiny_detectors import tiny, tiny_config

ROOT = Path(__file__).resolve().parents[2]


def load_tool(name):
    spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / 'tools' / f'{name}.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


visualize, make_shapes = load_tool('visualize'), load_tool('make_shapes')


@pytest.fixture(scope='module')
def desk(tmp_path_factory):
    """A distillation config, checkpoints, one image of its data and one from elsewhere."""
    folder = tmp_path_factory.mktemp('visualize')
    data = folder / 'shapes'
    make_shapes.make_shapes(str(data), train=1, val=1, size=64)
    student, teacher = tiny_config('deformable'), tiny_config('deformable', num_layers=3)
    names = ('circle', 'hexagon', 'ring')
    dataset = dict(
        type='CocoDataset',
        ann_file=f'{data}/annotations/instances_val.json',
        data_prefix=dict(img=f'{data}/val/'),
        metainfo=dict(classes=names),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(96, 96), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
            ),
        ],
    )
    model = dict(
        type='DETRDistill',
        architecture=student,
        teacher=teacher,
        teacher_ckpt=f'{folder}/teacher.pth',
        distiller=dict(
            type='DETRDistiller',
            distill_losses=dict(
                loss_logits_kd=dict(type='LogitsKDLoss'),
                loss_feature_kd=dict(type='FeatureKDLoss'),
                loss_assign_kd=dict(type='AssignKDLoss'),
            ),
        ),
    )
    loader = dict(dataset=dataset)
    config = Config(
        dict(
            default_scope='mmdet',
            model=model,
            train_dataloader=loader,
            val_dataloader=loader,
            test_dataloader=loader,
        )
    )
    config.dump(folder / 'config.py')
    for name, layers, seed in (('teacher', 3, 1), ('alone', 2, 2)):
        state = tiny('deformable', seed, num_layers=layers).state_dict()
        torch.save(dict(state_dict=state, meta={}), folder / f'{name}.pth')
    state = tiny('deformable', 3).state_dict()
    whole = {f'architecture.{key}': value for key, value in state.items()}
    torch.save(dict(state_dict=whole, meta={}), folder / 'distilled.pth')
    shutil.copy(next((data / 'val').iterdir()), folder / 'elsewhere.png')
    return folder


def test_images_with_and_without_ground_truth(desk, tmp_path, capsys):
    known = next((desk / 'shapes' / 'val').iterdir())
    paths = visualize.main(
        [
            *(str(desk / name) for name in ('config.py', 'distilled.pth')),
            *(str(known), str(desk / 'elsewhere.png')),
            *('--alone', str(desk / 'alone.pth'), '--out', str(tmp_path)),
        ]
    )
    names = ('masks_paper', 'masks_released', 'boxes', 'matches', 'references', 'change')
    stems = (known.stem, 'elsewhere')
    assert {Path(path).name for path in paths} == {
        f'{stem}_{name}.png' for stem in stems for name in names
    }
    assert all(Path(path).stat().st_size > 5000 for path in paths)
    assert capsys.readouterr().out.count('wrote ') == 12


def test_ground_truth_of_known_images_only(desk):
    known = next((desk / 'shapes' / 'val').iterdir())
    config = Config.fromfile(desk / 'config.py')
    first, second = visualize.load_images(config, [str(known), str(desk / 'elsewhere.png')])
    assert torch.equal(first['inputs'], second['inputs'])
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = visualize.DATASETS.build(config.val_dataloader.dataset)
    info = dataset.get_data_info(0)
    height, width = first['inputs'].shape[-2:]
    scale = torch.tensor([width / info['width'], height / info['height']]).repeat(2)
    boxes = torch.tensor([entry['bbox'] for entry in info['instances']]) * scale
    assert len(boxes) and not torch.allclose(scale, torch.ones(4))
    torch.testing.assert_close(first['data_samples'].gt_instances.bboxes, boxes)
    assert len(second['data_samples'].gt_instances) == 0


def test_weights_are_those_of_the_checkpoints(desk):
    """Of a distillation, of a plain student, of the student alone."""
    config = Config.fromfile(desk / 'config.py')
    whole = visualize.load_model(config, str(desk / 'distilled.pth')).student.state_dict()
    expected = tiny('deformable', 3).state_dict()
    torch.testing.assert_close(whole, expected)
    config = Config.fromfile(desk / 'config.py')
    plain = visualize.load_model(config, str(desk / 'alone.pth')).student.state_dict()
    torch.testing.assert_close(plain, tiny('deformable', 2).state_dict())


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(images=['nowhere.png']), r'visualize: nowhere\.png does not exist'),
        (dict(checkpoint='teacher.pth'), r'teacher\.pth does not fit the student'),
        (dict(options=['model.type=DETR']), 'not a distillation config'),
    ],
)
def test_bad_input(desk, changes, message):
    given = dict(images=[str(desk / 'elsewhere.png')], checkpoint='distilled.pth', options=[])
    given.update(changes)
    arguments = [str(desk / 'config.py'), str(desk / given['checkpoint']), *given['images']]
    if given['options']:
        arguments += ['--cfg-options', *given['options']]
    with pytest.raises(SystemExit, match=message):
        visualize.main(arguments)

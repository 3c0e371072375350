"""Write a synthetic COCO-format detection set: shapes over textured noise.

    python tools/make_shapes.py data/shapes --train 1000 --val 200 --size 128 --seed 0

What is in it, so that results can be read:

- Eight classes, each with a hue that it prefers; three shapes in a hundred have any hue, so that
  colour helps and outline decides. Rotation, aspect, contrast and texture vary.
- 1 to ``max_objects`` shapes per image, few more often than many (about 3 on average);
  ``empty_share`` of the images hold none, in both splits.
- Image sides are drawn from [0.75, 1] x ``size``, so batches are padded.
- Shape extents are log-uniform between 0.2 and 0.85 x ``size``; one image in four starts with a
  shape that nearly fills it. For 128 that spans COCO's small, medium and some large objects.
- Later shapes are drawn over earlier ones. A shape that would leave less than 30 % of any
  earlier shape visible is not drawn, so everything that can be seen is labelled.
- A box is tight around the visible pixels of its shape; ``area`` is box width x height.

Image i of a split depends on the seed, the split and i alone: a larger set extends a smaller one.
The set is written to ``OUT.partial`` and renamed when it is complete. A complete set with the same
arguments is reused; anything else in ``OUT`` is an error.
"""

import argparse
import colorsys
import json
import os
import shutil
import sys
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np

VERSION = '2'  # raise it when the same arguments would give other images
CLASSES = ('circle', 'hexagon', 'ring', 'frame', 'square', 'triangle', 'star', 'cross')
CORNERS = dict(circle=64, ring=64, hexagon=6, square=4, frame=4, triangle=3, star=10)
SPLITS = ('train', 'val')
MIN_VISIBLE = 0.3
OVERSAMPLING = 4  # masks are drawn enlarged and averaged down, which smooths their edges


def polygon(name: str) -> np.ndarray:
    """Outline of a class in the unit disc, ``(n, 2)``."""
    if name == 'cross':
        arm = 0.3
        quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
        turn = np.array([[0, 1], [-1, 0]])
        parts = [quarter]
        for _ in range(3):
            parts.append(parts[-1] @ turn)
        return np.concatenate(parts) / np.hypot(1, arm)
    corners = CORNERS[name]
    angles = 2 * np.pi * np.arange(corners) / corners
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if name == 'star':
        points[1::2] *= 0.45
    return points


def draw_mask(
    name: str,
    height: int,
    width: int,
    center: Tuple[float, float],
    extent: float,
    angle: float,
    aspect: float,
) -> np.ndarray:
    """Coverage ``(height, width)`` in [0, 1] of one shape; ``center`` is (x, y) in pixels."""
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, sin], [-sin, cos]])
    outline = polygon(name) * (extent / 2) * np.array([1.0, aspect]) @ rotation
    canvas = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING), np.uint8)
    hole = [(0.55, 0)] if name in ('ring', 'frame') else []
    for scale, value in [(1.0, 255), *hole]:
        points = (outline * scale + np.array(center)) * OVERSAMPLING
        cv2.fillPoly(canvas, [np.round(points).astype(np.int32)], value)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def noise(rng: np.random.Generator, height: int, width: int, channels: int) -> np.ndarray:
    """Noise on several scales, ``(height, width, channels)``, about in [-1, 1]."""
    total = np.zeros((height, width, channels), np.float32)
    for cell in (32, 16, 8, 4, 2, 1):
        grid = rng.standard_normal((height // cell + 2, width // cell + 2, channels))
        grid = cv2.resize(grid.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        total += rng.uniform(0.2, 1.0) * grid.reshape(height, width, channels)
    return total / 3


def tight_box(mask: np.ndarray) -> List[int]:
    """COCO box [x, y, width, height] around the pixels of a boolean mask that has some."""
    return list(cv2.boundingRect(mask.astype(np.uint8)))


def pick_colour(rng: np.random.Generator, label: int, behind: np.ndarray) -> np.ndarray:
    """Colour of a shape, BGR in [0, 255]: near its class's hue, unlike what is ``behind`` it."""
    for _ in range(20):
        hue = label / len(CLASSES) + rng.normal(0, 0.02)
        if rng.random() < 0.03:
            hue = rng.random()
        rgb = colorsys.hsv_to_rgb(hue % 1.0, rng.uniform(0.6, 1.0), rng.uniform(0.6, 1.0))
        colour = np.array(rgb[::-1]) * 255
        if np.abs(colour - behind).mean() > 30:
            break
    return colour


def render(
    rng: np.random.Generator, size: int, max_objects: int, empty_share: float
) -> Tuple[np.ndarray, List[int], List[np.ndarray]]:
    """One image: ``(h, w, 3)`` uint8, class index and visible mask ``(h, w)`` of each shape."""
    height, width = (int(v) for v in rng.integers(round(0.75 * size), size + 1, 2))
    colour = rng.uniform(60, 195) + rng.uniform(-20, 20, 3)
    grey = noise(rng, height, width, 1) * rng.uniform(5, 35)
    image = colour + (grey + noise(rng, height, width, 3) * rng.uniform(2, 12))
    wanted = min(max_objects, int(rng.geometric(0.4) + rng.integers(2)))
    if rng.random() < empty_share:
        wanted = 0
    fills_image = rng.random() < 0.25
    labels: List[int] = []
    full: List[int] = []  # pixels of the shape before anything covered it
    masks: List[np.ndarray] = []
    for _ in range(wanted * 20):
        if len(labels) == wanted:
            break
        label = int(rng.integers(len(CLASSES)))
        side = 0.98 * min(height, width)
        if fills_image and not labels:
            extent = float(rng.uniform(0.85, 1.0)) * side
        else:
            largest = min(0.85 * size, side)
            extent = float(np.exp(rng.uniform(np.log(0.2 * size), np.log(largest))))
        margin = extent / 2
        center = (rng.uniform(margin, width - margin), rng.uniform(margin, height - margin))
        angle, aspect = rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.0)
        cover = draw_mask(CLASSES[label], height, width, center, extent, angle, aspect)
        mask = cover >= 0.5
        kept = [np.count_nonzero(old & ~mask) for old in masks]
        if not mask.any() or any(k < MIN_VISIBLE * n for k, n in zip(kept, full)):
            continue
        fill = pick_colour(rng, label, image[mask].mean(axis=0))
        surface = fill + noise(rng, height, width, 1) * rng.uniform(0, 15)
        image = image * (1 - cover[..., None]) + surface * cover[..., None]
        masks = [old & ~mask for old in masks] + [mask]
        full.append(int(np.count_nonzero(mask)))
        labels.append(label)
    image = image + rng.standard_normal(image.shape) * rng.uniform(0, 6)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), labels, masks


def write_split(out: str, split: str, count: int, info: Dict[str, Any]) -> None:
    """Write ``count`` images of one split and its annotation file."""
    arguments = info['arguments']
    os.makedirs(os.path.join(out, split))
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for index in range(count):
        rng = np.random.default_rng([arguments['seed'], SPLITS.index(split), index])
        image, labels, masks = render(
            rng, arguments['size'], arguments['max_objects'], arguments['empty_share']
        )
        name = f'{index:06d}.png'
        path = os.path.join(out, split, name)
        if not cv2.imwrite(path, image):
            raise OSError(f'could not write {path}')
        height, width = image.shape[:2]
        images.append(dict(id=index + 1, file_name=name, width=width, height=height))
        for label, mask in zip(labels, masks):
            box = tight_box(mask)
            item = dict(id=len(annotations) + 1, image_id=index + 1, category_id=label + 1)
            annotations.append(dict(item, bbox=box, area=box[2] * box[3], iscrowd=0))
    categories = [dict(id=i + 1, name=n, supercategory='shape') for i, n in enumerate(CLASSES)]
    path = os.path.join(out, 'annotations', f'instances_{split}.json')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as file:
        content = dict(info=info, licenses=[], images=images)
        json.dump(dict(content, annotations=annotations, categories=categories), file)


def is_complete(out: str, info: Dict[str, Any]) -> bool:
    """Whether ``out`` holds the set that ``info`` describes, images included."""
    for split in SPLITS:
        try:
            with open(os.path.join(out, 'annotations', f'instances_{split}.json')) as file:
                found = json.load(file)
            present = set(os.listdir(os.path.join(out, split)))
        except (OSError, ValueError):
            return False
        if not isinstance(found, dict) or found.get('info') != info:
            return False
        if not {image['file_name'] for image in found['images']} <= present:
            return False
    return True


def make_shapes(
    out: str,
    train: int = 1000,
    val: int = 200,
    size: int = 128,
    seed: int = 0,
    max_objects: int = 8,
    empty_share: float = 0.02,
) -> bool:
    """Write the set to ``out``; returns False when it was there already.

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: ``out`` holds something else.
    """
    arguments = {name: value for name, value in locals().items() if name != 'out'}
    if train < 1 or val < 1 or seed < 0 or max_objects < 1:
        raise ValueError('train, val and max_objects must be >= 1 and seed >= 0')
    if size < 64:
        raise ValueError(f'size must be >= 64, got {size}: smaller shapes cannot be told apart')
    if not 0 <= empty_share < 1:
        raise ValueError(f'empty_share must be in [0, 1), got {empty_share}')
    info = dict(description='shapes over textured noise', version=VERSION, arguments=arguments)
    out = os.path.normpath(out)
    if os.path.isdir(out) and not os.listdir(out):
        os.rmdir(out)
    if os.path.lexists(out):
        if is_complete(out, info):
            return False
        raise FileExistsError(
            f'{out} exists and is not the complete shapes set version {VERSION} with {arguments}; '
            'remove it or choose another folder'
        )
    partial = out + '.partial'
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run
    os.makedirs(partial)
    for split in SPLITS:
        write_split(partial, split, arguments[split], info)
    os.rename(partial, out)
    return True


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description='Write a synthetic COCO-format detection set: shapes over textured noise.'
    )
    parser.add_argument('out', help='folder to write, e.g. data/shapes')
    parser.add_argument('--train', type=int, default=1000, help='training images (default 1000)')
    parser.add_argument('--val', type=int, default=200, help='validation images (default 200)')
    parser.add_argument('--size', type=int, default=128, help='longest side, pixels (default 128)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--max-objects', type=int, default=8, help='most shapes per image')
    parser.add_argument('--empty-share', type=float, default=0.02, help='images without shapes')
    arguments = parser.parse_args(argv)
    try:
        written = make_shapes(**vars(arguments))
    except (ValueError, FileExistsError) as error:
        sys.exit(f'make_shapes: {error}')
    verb = 'wrote' if written else 'reused'
    print(f'{verb} {arguments.train} + {arguments.val} images in {arguments.out}')


if __name__ == '__main__':
    main()

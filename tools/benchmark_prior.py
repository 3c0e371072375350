"""The injected pass as a decoder pass of its own, against one joined with the student's own pass.

    python benchmarks/benchmark_prior.py CONFIG [--size 400 667] [--images 1] [--repeats 3]

A distillation config whose student is DINO, the one family whose decoder takes a mask. Forward and
backward of decoder and head, down to the memory; queries of equal number are injected. `masked`
puts both sets into one pass, apart by the mask; `doubled` puts them into a batch of twice the
images, which needs equal numbers and so is compared without denoising queries. Ratios above 1 are
in favour of joining. Predictions are equal, see `difference`.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).parent))

import torch
from benchmark_steps import footprint, make_batch, make_model, timed
from mmengine.logging import MMLogger
from torch import Tensor, nn

from mmdet_detrdistill.config.launch import add_common_options
from mmdet_detrdistill.config.read import read_config

Logits = Tuple[Tensor, Tensor]


def ways(student: Any, state: Any) -> Dict[str, Callable[[], Logits]]:
    """Each gives the class logits (L, B, N, C) of the student's own queries and of the injected."""
    inputs = dict(state.decoder_inputs)
    skip = state.head_inputs['dn_meta']['num_denoising_queries']
    own = {name: inputs[name] for name in ('query', 'reference_points')}
    plain = {name: value[:, skip:] for name, value in own.items()}
    injected = {name: value.roll(3, 1) for name, value in plain.items()}

    def decode(**changes: Any) -> Tensor:
        outputs = student.forward_decoder(**{**inputs, **changes})
        return student.bbox_head(**outputs)[0]

    def masked() -> Logits:
        first, both = own['query'].shape[1], own['query'].shape[1] + plain['query'].shape[1]
        mask = torch.ones(both, both, dtype=torch.bool, device=inputs['dn_mask'].device)
        mask[:first, :first] = inputs['dn_mask']
        mask[first:, first:] = False
        joined = {name: torch.cat((own[name], injected[name]), 1) for name in own}
        logits = decode(**joined, dn_mask=mask)
        return logits[:, :, :first], logits[:, :, first:]

    def doubled() -> Logits:
        shared = ('memory', 'memory_mask', 'valid_ratios')
        twice = {n: torch.cat((inputs[n],) * 2) for n in shared if inputs.get(n) is not None}
        joined = {name: torch.cat((plain[name], injected[name])) for name in plain}
        logits = decode(**joined, **twice, dn_mask=None)
        first, second = logits.chunk(2, 1)
        return first, second

    return {
        'apart': lambda: (decode(), decode(**injected, dn_mask=None)),
        'masked': masked,
        'apart, no denoising': lambda: (
            decode(**plain, dn_mask=None),
            decode(**injected, dn_mask=None),
        ),
        'doubled': doubled,
    }


def main(argv: Optional[Sequence[str]] = None) -> Dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument('--size', type=int, nargs=2, default=[400, 667], metavar=('H', 'W'))
    parser.add_argument('--images', type=int, default=1)
    parser.add_argument('--objects', type=int, default=7, help='per image')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--json', type=Path, help='write the report here')
    args = parser.parse_args(argv)
    MMLogger.get_current_instance().setLevel('WARNING')
    model = make_model(read_config(args, needs_data=False), args.device)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # what is compared must be equal
    images, samples = make_batch(
        tuple(args.size), args.images, args.objects, model.student_adapter.num_classes, args.device
    )
    with torch.no_grad():
        state = model.student_adapter.encode(images, samples)
    if state.decoder_inputs.get('dn_mask') is None:
        raise SystemExit(f'{args.config}: the student must be DINO, whose decoder takes a mask')
    state.decoder_inputs['memory'] = state.decoder_inputs['memory'].requires_grad_()
    functions = ways(model.student, state)

    def step(function: Callable[[], Logits]) -> None:
        sum(logits.sum() for logits in function()).backward()

    found: Dict[str, List[float]] = {name: [] for name in functions}
    for repeat in range(args.repeats + 1):
        for name, function in functions.items():
            seconds = timed(lambda f=function: step(f), args.device)
            found[name] += [seconds] if repeat else []
    peaks = {name: footprint(lambda f=f: step(f), args.device)[0] for name, f in functions.items()}
    with torch.no_grad():
        logits = {name: function() for name, function in functions.items()}
    report: Dict[str, Any] = dict(seconds=found, peaks=peaks, ratios={}, difference={})
    for joined, apart in (('masked', 'apart'), ('doubled', 'apart, no denoising')):
        report['ratios'][joined] = median(found[apart]) / median(found[joined])
        pairs = zip(logits[joined], logits[apart])
        report['difference'][joined] = max((a - b).abs().max().item() for a, b in pairs)
    for name, seconds in found.items():
        print(f'{name:20s} {median(seconds):8.3f} s {peaks[name] / 2**20:8.0f} MiB')
    for name, ratio in report['ratios'].items():
        print(f'{name}: {ratio:.3f} x, difference {report["difference"][name]:.1e}')
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    return report


if __name__ == '__main__':
    main()

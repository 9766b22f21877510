"""Parameters, MACs and latency of many networks on many runtimes, in one interleaved run."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from scipy.stats import permutation_test, rankdata, spearmanr, zscore
from torch import Tensor, nn

from ..deploy.graphs import trace_onnx
from ..deploy.runtimes import for_onnxruntime, for_openvino, for_torch, require_runtimes
from ..mobileone import MobileOne
from ..utils.errors import ArgumentError
from ..utils.machine import cpu_name
from .contenders import Contender, build_all
from .timing import check_least, measure, progress, settled_ms, statistics

LAYOUTS = ('plain', 'channels_last')
# The paper's section 3: Spearman's rho with latency, over published networks.
PAPER_RHO = {'macs': {'phone': 0.47, 'cpu': 0.06}, 'parameters': {'phone': 0.30, 'cpu': 0.07}}


@dataclass
class Entry:
    """A network in one form on one runtime.

    Attributes:
        model: Name of the network.
        form: ``train``, ``eval`` or ``deploy``.
        runtime: One of ``RUNTIMES``.
        layout: ``plain`` or ``channels_last``, of input, maps and outputs; ``default``: a plain input, of which
            MobileOne chooses the layout inside; ``own`` for other runtimes than torch.
        shape: (N, C, H, W) of the input.
        parameters: Of the module in this form.
        macs: For one image; mmengine's count.
        run: One forward pass of the whole batch; returns the outputs.
        times_ms: Latencies of the measured rounds, in milliseconds.
    """

    model: str
    form: str
    runtime: str
    layout: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    run: Callable[[], object]
    times_ms: list[float] = field(default_factory=list)

    def time_ms(self) -> float:
        """Milliseconds of one forward pass."""
        return settled_ms(self.run)


def benchmark(builders: Sequence[Callable[[], Contender]], runtimes: Sequence[str] = ('torch', ), batch: int = 1,
              threads: int | None = None, rounds: int = 50, warmup: int = 5, device: str = 'cpu',
              baseline: str | None = None, layouts: Sequence[str] = LAYOUTS) -> dict:
    """Build, count and export what is to be compared, one after another, then measure all of it together.

    Args:
        builders: From ``contenders.plan`` or ``bottlenecks.plan``.
        runtimes: Some of ``RUNTIMES``: torch runs every form, the others the deploy form.
        batch: Images in a forward pass.
        threads: Threads of each runtime; default: torch's.
        rounds: Measured rounds, each of them one timed forward pass of everything, in random order.
        warmup: Rounds before these.
        device: ``cpu`` or ``cuda``.
        baseline: Network to whose deploy form on the same runtime latencies are put in relation; default: the first.
        layouts: Of torch; ratios are to the last one.

    Returns:
        ``settings``, ``versions``, ``notes`` and ``rows``, one for each entry: all that is in the JSON.

    Raises:
        MissingPackageError: A runtime is not installed.
        ArgumentError: An argument outside of its range, or a network that does not run.
    """
    check_least(1, batch=batch, threads=threads, rounds=rounds)
    check_least(0, warmup=warmup)
    if device == 'cuda' and not torch.cuda.is_available():
        raise ArgumentError('--device cuda needs a GPU that torch can use, and there is none. Leave it out.')
    runtimes = list(dict.fromkeys(runtimes))
    versions = require_runtimes(runtimes, device)
    if threads is not None:
        torch.set_num_threads(threads)
    threads = torch.get_num_threads()

    notes, entries = [], []
    for contender in progress(build_all(builders, notes), 'Building', len(builders)):
        entries += make_entries(contender, runtimes, batch, threads, device, layouts)
    models = list(dict.fromkeys(entry.model for entry in entries))
    baseline = baseline or models[0]
    if baseline not in models:
        raise ArgumentError(f'--baseline is one of {", ".join(map(repr, models))} here, got {baseline!r}.')
    measure(entries, rounds, warmup)
    settings = dict(cpu=cpu_name(), device=torch.cuda.get_device_name() if device == 'cuda' else 'cpu', threads=threads,
                    batch=batch, rounds=rounds, warmup=warmup, baseline=baseline, layout=layouts[-1])
    return dict(settings=settings, versions=versions, notes=notes, rows=summarize(entries, baseline, layouts[-1]))


def make_entries(contender: Contender, runtimes: Sequence[str], batch: int, threads: int,
                 device: str = 'cpu', layouts: Sequence[str] = LAYOUTS) -> list[Entry]:
    """Every form of a network for torch in each layout, and its deploy form for the other runtimes.

    Raises:
        ArgumentError: It does not run on such an input, or does not export.
    """
    x = torch.randn(batch, *contender.shape, generator=torch.Generator().manual_seed(0)).to(device)
    forms = {form: module.to(device) for form, module in contender.forms.items()
             if form == 'deploy' or 'torch' in runtimes}
    try:
        for_torch(forms['deploy'], x)()
    except (RuntimeError, TypeError) as error:  # a size that does not divide; a network of more than one input
        raise _refusal(contender, x, error) from error
    counts = {form: count(module, x[:1]) for form, module in forms.items()}
    runs = [(form, 'torch', layout, _in_layout(module, x, layout))
            for form, module in forms.items() if 'torch' in runtimes for layout in layouts]
    others = {'onnxruntime': for_onnxruntime, 'openvino': for_openvino}
    if any(runtime in runtimes for runtime in others):
        try:
            proto = trace_onnx(forms['deploy'], x, 'input', [])
        except torch.onnx.OnnxExporterError as error:
            raise _refusal(contender, x, error) from error
        runs += [('deploy', runtime, 'own', others[runtime](proto, x, threads))
                 for runtime in others if runtime in runtimes]
    return [Entry(contender.name, form, runtime, layout, tuple(x.shape), *counts[form], run)
            for form, runtime, layout, run in runs]


def _in_layout(module: nn.Module, x: Tensor, layout: str) -> Callable[[], object]:
    """A call of ``module``; MobileOne chooses a layout by itself only in the layout ``default``."""
    backbones = [each for each in module.modules() if isinstance(each, MobileOne)]
    run = for_torch(module, x.contiguous(memory_format=torch.channels_last) if layout == 'channels_last' else x)

    def run_in_layout():
        for backbone in backbones:  # each time, because the layouts share the module
            backbone.channels_last = None if layout == 'default' else layout == 'channels_last'
        return run()

    return run_in_layout


def _refusal(contender: Contender, x: Tensor, error: Exception) -> ArgumentError:
    return ArgumentError(f'{contender.name} does not run on {tuple(x.shape)} alone: {str(error).strip()[:300]!r}. '
                         'Choose another --shape or --runtime, or leave it out.')


@torch.no_grad()
def count(module: nn.Module, x: Tensor) -> tuple[int, int]:
    """Parameters of a module, and its MACs on ``x``, both as mmengine counts."""
    analyzer = FlopAnalyzer(module, (x, )).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return parameter_count(module)[''], int(analyzer.total())


def summarize(entries: Sequence[Entry], baseline: str, layout: str) -> list[dict]:
    """One row for each entry: what it is, :func:`.statistics` of its times, and all of them.

    Ratios are to the deploy form of ``baseline`` on the same runtime, of torch in ``layout``.
    """
    base = {entry.runtime: entry.times_ms for entry in entries
            if entry.model == baseline and entry.form == 'deploy' and entry.layout in (layout, 'own')}
    return [dict(model=entry.model, form=entry.form, runtime=entry.runtime, layout=entry.layout,
                 input='x'.join(map(str, entry.shape)),
                 parameters=entry.parameters, macs=entry.macs, **statistics(entry.times_ms, base[entry.runtime]),
                 times_ms=entry.times_ms)
            for entry in entries]


def correlate(rows: Sequence[dict]) -> list[dict]:
    """Spearman's rank correlation of MACs and of parameters with the median latency, over the deploy forms.

    Returns:
        For each runtime and each of the two: ``runtime``, ``of``, ``models``, ``rho``, ``p``, ``paper_phone`` and
        ``paper_cpu``; ``rho`` and ``p`` are None with fewer than three different counts, which say nothing.
    """
    correlations = []
    for runtime in dict.fromkeys(row['runtime'] for row in rows):
        deployed = [row for row in rows if row['runtime'] == runtime and row['form'] == 'deploy'
                    and row['layout'] != 'plain']
        for of, paper in PAPER_RHO.items():
            counts, rho, p = [row[of] for row in deployed], None, None
            if len(set(counts)) >= 3:
                rho, p = spearman(counts, [row['median_ms'] for row in deployed])
            correlations.append(dict(runtime=runtime, of=of, models=len(deployed), rho=rho, p=p,
                                     paper_phone=paper['phone'], paper_cpu=paper['cpu']))
    return correlations


def spearman(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Spearman's rho, and its two-sided p-value by permutations, for ``spearmanr``'s own is off for so few networks."""
    ranks, others = zscore(rankdata(x)), zscore(rankdata(y))
    test = permutation_test((ranks, ), lambda ranks, axis: (ranks * others).mean(axis), permutation_type='pairings',
                            vectorized=True, random_state=0)
    return float(spearmanr(x, y).statistic), float(test.pvalue)

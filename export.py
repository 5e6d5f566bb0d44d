"""Write a classifier or an encoder as one file that runs without this project.

    python export.py runs/classifier-byol-frozen/classifier.pt --out model.onnx
    python export.py byol.pt --out encoder.onnx             # features
    python export.py classifier.pt --format torch           # torch.export: classifier.pt2
    python export.py classifier.pt --format half --out small.pt    # for this project, half the size

The model takes RGB images in 0..1 and normalises them itself. A classifier gives probabilities, an
encoder features. The metadata of the file say how to resize, and name the classes. Before anything
is written, the outputs are compared with those of the weights. `half` is what the project's other
scripts read, with filters and matrices in float16.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import logging
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from byol.command_line import Parser, command
from byol.errors import UserError, first_line, printable
from byol.evaluation.portable import Portable
from byol.files import write_atomically
from byol.hardware.small_maps import up_to
from byol.progress import say
from byol.run import checkpoint
from byol.run.checkpoint import check_writable

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "half": ".half.pt"}
CLOSE, CLOSE_LOGARITHMS = 1e-4, 1e-2
CLOSE_IN_HALF = 1e-2  # of a probability, or of the largest feature
LEAST = 1e-30  # of what a logarithm is taken: float32 ends a little below
INPUT = "images"


@command
def main(argv: list[str] | None = None) -> None:
    # ---- what to write, and where
    args = read_flags(argv)
    kind = args.format or ("torch" if Path(args.out or "").suffix == ".pt2" else "onnx")
    out = Path(args.out or Path(args.weights).with_suffix(SUFFIXES[kind]))
    if kind == "onnx":
        check_onnx()
    check_writable(out)
    if out.exists() and not args.overwrite:
        raise UserError(
            f"{printable(str(out))} is there already; give another --out, or --overwrite"
        )

    # ---- write it in memory, compare, then to the disk: whole or not at all
    model = Portable(args.weights)
    if kind == "half":
        write_half(args.weights, model, out)
        return
    with quietly():
        blob = (to_onnx if kind == "onnx" else to_torch)(model)
    run, by = (runner_of_onnx if kind == "onnx" else runner_of_torch)(blob)
    apart = compare(model, run)
    say(f"checked with {by}: outputs at most {apart:.1g} apart")
    write_atomically(out, blob)
    side = model.image_size
    print(
        f"wrote {printable(shlex.quote(str(out)))}: {INPUT} (N, 3, {side}, {side}) in 0..1 -> "
        f"{model.output} (N, {width_of(model)})"
    )


def read_flags(argv: list[str] | None):
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("weights", metavar="FILE", help="classifier.pt or byol.pt")
    add("--out", metavar="FILE", help="file to write [the name of the weights, .onnx or .pt2]")
    add("--format", choices=list(SUFFIXES), metavar="X", help="onnx, torch for torch.export, or "
        "half for this project, in half precision "
        "[torch if --out ends in .pt2, else onnx]")  # fmt: skip
    add("--overwrite", action="store_true", help="replace the file if it is there")
    return parser.parse_args(argv)


def write_half(path: str, model: Portable, out: Path) -> None:
    """Write the checkpoint `path` again with filters and matrices in float16, as any is read.

    Biases, BatchNorm and its statistics stay as they are. Raises `UserError` if the outputs of
    `model`, which is of the same file, would change.
    """
    small = copy.deepcopy(model)
    for weight in small.parameters():
        weight.copy_(halved(weight))
    (images,) = example(model, 16)
    with torch.no_grad():
        want, got = model(images), small(images)
    apart = ((got - want).abs().max() / want.abs().max()).item()
    if not apart <= CLOSE_IN_HALF:
        raise UserError(
            f"in half precision the outputs would be {apart:.1g} apart, so the file was not "
            "written; try --format torch"
        )
    say(f"checked: outputs at most {apart:.1g} apart")
    content = checkpoint.load_any(path)
    for part in {"encoder", "head"} & content.keys():
        content[part] = {name: halved(value) for name, value in content[part].items()}
    kind = content.pop("kind")
    checkpoint.save(out, kind, content)
    megabytes = out.stat().st_size / 1e6
    print(f"wrote {printable(shlex.quote(str(out)))}: {kind} in half precision, {megabytes:.1f} MB")


def halved(value: Tensor) -> Tensor:
    return value.half() if value.ndim > 1 else value


def check_onnx() -> None:
    """Raise `UserError` if what PyTorch needs to write ONNX is not installed."""
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
    except ImportError:
        raise UserError(
            "--format onnx needs onnx and onnxscript, which are not installed: "
            "pip install onnx onnxscript, or give --format torch"
        ) from None


@contextlib.contextmanager
def quietly():
    """Leave out what PyTorch's exporters tell of themselves."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def example(model: Portable, count: int = 2) -> tuple[Tensor]:
    """Make images in 0..1, always the same."""
    side, draw = model.image_size, torch.Generator().manual_seed(count)
    return (torch.rand(count, 3, side, side, generator=draw),)


def any_batch() -> tuple:
    """Say that the first dimension may be of any size, the others not."""
    return ({0: torch.export.Dim("N")},)


def to_torch(model: Portable) -> bytes:
    """Write a model as `torch.export.load` reads it; metadata.json is among its extra files."""
    with up_to(0):
        program = torch.export.export(model, example(model), dynamic_shapes=any_batch())
    stream = io.BytesIO()
    about = json.dumps(model.about(), indent=2)
    torch.export.save(program, stream, extra_files={"metadata.json": about})
    return stream.getvalue()


def to_onnx(model: Portable) -> bytes:
    """Write a model as ONNX, with its metadata in `metadata_props`.

    Raises `UserError` if this PyTorch cannot.
    """
    import onnx

    try:
        with up_to(0):
            program = torch.onnx.export(
                model, example(model), dynamo=True, dynamic_shapes=any_batch(),
                input_names=[INPUT], output_names=[model.output], verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"this PyTorch cannot write ONNX: {first_line(error)}") from None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, model.about())
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def runner_of_torch(blob: bytes) -> tuple[Callable[[Tensor], Tensor], str]:
    """Give the function that a file of torch.export is, and its name."""
    return torch.export.load(io.BytesIO(blob)).module(), "torch.export"


def runner_of_onnx(blob: bytes) -> tuple[Callable[[Tensor], Tensor], str]:
    """Give the function that an ONNX file is, and the name of what runs it."""
    try:
        import onnxruntime

        session = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])
        name = "onnxruntime"
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        session, name = ReferenceEvaluator(blob), "onnx's reference (slow; no onnxruntime here)"
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0]), name


def compare(model: Portable, run: Callable[[Tensor], Tensor]) -> float:
    """Compare outputs for batches of one and of three: the largest difference.

    Probabilities near 0 and 1 hide a fault, so their logarithms are compared as well. Raises
    `UserError` if they are not close.
    """
    apart = 0.0
    for count in (1, 3):
        (images,) = example(model, count)
        with torch.no_grad():
            want, got = model(images), run(images)
        difference = (got - want).abs()
        apart = max(apart, difference.max().item())
        close = bool((difference <= CLOSE * want.abs().clamp(min=1)).all())
        if close and model.classes:
            close = bool((logarithm(got) - logarithm(want)).abs().max() <= CLOSE_LOGARITHMS)
        if not close:
            raise UserError(
                f"the file would give other outputs than the weights ({apart:.1g} apart), so it "
                "was not written; try the other --format, or another version of PyTorch"
            )
    return apart


def logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=LEAST).log()


@torch.no_grad()
def width_of(model: Portable) -> int:
    """Count the numbers that come out for an image."""
    return model(*example(model, 1)).shape[1]


if __name__ == "__main__":
    sys.exit(main())

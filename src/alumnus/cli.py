"""The command line: parses, calls the API, prints. Results go to stdout, talk to stderr."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

if TYPE_CHECKING:
    from alumnus.training.loop import Interval

__all__ = ["app", "main"]

app = typer.Typer(
    name="alumnus",
    help="Distil many vision models into one universal encoder.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
SEGMENTATION = "Options of segmentation"  # panels of the help
DEPTH = "Options of depth"
HEADS = "Options of segmentation and depth"
stderr = Console(stderr=True, highlight=False)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings as key=value, e.g. data.train=photos")
]
TwoViewModel = Annotated[
    str, typer.Option(help="MASt3R's file, folder with two_view.safetensors, miniworld-rooms")
]
HeadEncoder = Annotated[
    str | None, typer.Option(help="The model's encoder, where that is not with it")
]
OverwriteFiles = Annotated[bool, typer.Option("--overwrite", help="Replace files in out=")]


@app.command()
def distill(
    recipe: Annotated[str, typer.Argument(help="Name (alumnus list recipes) or path of a recipe")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in out=")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the run in out=")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show the whole configuration and stop")
    ] = False,
) -> None:
    """Distil teachers into one encoder: `alumnus distill folder data.train=PHOTOS`."""
    from alumnus import api

    if print_config:
        print(api.show_config(recipe, *(overrides or [])), end="")
        return
    with _progress() as on_interval:
        result = api.distill(
            recipe,
            *(overrides or []),
            resume=resume,
            overwrite=overwrite,
            on_interval=on_interval,
        )
    if not _is_first():
        return
    if result.table:
        print(result.table)
    stderr.print(f"\nThe encoder is in {escape(str(result.folder))}; load it with\n")
    print(result.how_to_load)


@app.command()
def finetune(
    encoder: Annotated[str, typer.Argument(help="Run, encoder, released .pth file, or teacher")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings as key=value: data=PATH out=FOLDER (docs/finetune.md)"),
    ] = None,
    *,
    head: Annotated[str, typer.Option(help="classes, segmentation, depth, two-view or people")],
    unfrozen: Annotated[
        bool, typer.Option("--unfrozen", help="Train the encoder too, more slowly")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in out=")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the run in out=")] = False,
) -> None:
    """Train a head on an encoder: `alumnus finetune runs/mine --head classes data=PATH out=OUT`."""
    from alumnus import api

    with _progress() as on_interval:
        result = api.finetune(
            encoder,
            *(overrides or []),
            head=head,
            unfrozen=unfrozen,
            resume=resume,
            overwrite=overwrite,
            on_interval=on_interval,
        )
    print(result.table)
    stderr.print(f"\nThe head is in {escape(str(result.folder))}; load it with\n")
    print(result.how_to_load)


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Runs, encoders, released .pth files, teachers by name; .json of earlier results"
        ),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="knn=PATH, logistic=TRAIN,TEST[,TEST...], logistic-sgd=..., zeroshot=TEXT,TEST, "
            "joints=PATH, body=PATH, matching=TEST, segmentation=PATH or depth=PATH; may be "
            "repeated"
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side of the images, px: of segmentation (512 if not given) and depth (480), of "
            "other tasks where a model has none (224); matching has patches of 8 px of it",
        ),
    ] = None,
    resize_ratio: Annotated[
        float, typer.Option(min=1, max=4, help="Short side of the resized image over the crop")
    ] = 1.0,
    trials: Annotated[int, typer.Option(min=1, help="Settings tried by logistic")] = 40,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass")] = 64,
    seed: Annotated[int, typer.Option(help="Of the validation splits")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images")] = 0,
    augment: Annotated[
        bool,
        typer.Option(
            "--augment",
            help="Train heads on random crops, whose features are computed in each step: the "
            "published protocol, for a GPU",
            rich_help_panel=SEGMENTATION,
        ),
    ] = False,
    inference: Annotated[
        str,
        typer.Option(
            help="ss, or ms: mean over six sizes and their mirror images",
            rich_help_panel=SEGMENTATION,
        ),
    ] = "ss",
    head_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of a head (40000 with --augment, else 1000)",
            rich_help_panel=HEADS,
        ),
    ] = None,
    layers: Annotated[
        int,
        typer.Option(min=1, help="Last layers of a ViT that a head sees", rich_help_panel=HEADS),
    ] = 1,
    head: Annotated[
        str | None,
        typer.Option(
            help="Measure this head and train none: .pth or .safetensors in DINOv2's layout, its "
            "layers by its width",
            rich_help_panel=SEGMENTATION,
        ),
    ] = None,
    heads_out: Annotated[
        Path | None,
        typer.Option(help="Write the trained heads to this folder", rich_help_panel=SEGMENTATION),
    ] = None,
    max_depth: Annotated[
        float | None,
        typer.Option(
            help="Metres: the last bin, beyond which pixels do not count (if not given, bins end "
            "at the largest depth of the training images)",
            rich_help_panel=DEPTH,
        ),
    ] = None,
    median_scaling: Annotated[
        bool,
        typer.Option(
            "--median-scaling",
            help="Multiply each prediction by the ratio of the true median to its own",
            rich_help_panel=DEPTH,
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write results as JSON here")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw all over the best teacher of each task: .png")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table")] = False,
) -> None:
    """Measure encoders and teachers on labelled images, all in the same way."""
    from alumnus import api
    from alumnus.report import table

    results = api.evaluate(
        models,
        task or [],
        size=size,
        resize_ratio=resize_ratio,
        trials=trials,
        batch_size=batch_size,
        seed=seed,
        segmentation={
            "augment": augment,
            "inference": inference,
            "steps": head_steps,
            "layers": layers,
            "head": head,
        },
        depth={
            "steps": head_steps,
            "layers": layers,
            "most_m": max_depth,
            "median_scaling": median_scaling,
        },
        heads_out=heads_out,
        workers=workers,
        plot=plot,
    )
    cells = table.results_table(results)
    print(table.markdown(cells) if markdown else table.plain(cells))
    if out is not None:
        results.save(out)


@app.command()
def compare(
    words: Annotated[
        list[str],
        typer.Argument(
            help="Teachers, runs or encoders, and data=FOLDER (or a pack, PATH:split)",
            metavar="TEACHER... data=FOLDER",
        ),
    ],
    images: Annotated[int, typer.Option(min=1, help="How many, drawn at random")] = 512,
    seed: Annotated[int, typer.Option(help="Of the draw")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass")] = 32,
    out: Annotated[Path | None, typer.Option(help="Write all numbers as JSON here")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw them: .png")] = None,
) -> None:
    """Which teachers repeat each other, and what a pool adds: from unlabelled images."""
    from alumnus import api
    from alumnus.text_files import check_picture

    data = [word.removeprefix("data=") for word in words if word.startswith("data=")]
    models = [word for word in words if not word.startswith("data=")]
    if len(data) != 1:
        raise ValueError("give the images as data=FOLDER, once")
    check_picture(picture)
    found = api.compare(models, data[0], images=images, seed=seed, batch_size=batch_size)
    print(found)
    if out is not None:
        found.save(out)
    if picture is not None:
        found.draw(picture)


@app.command()
def diagnose(
    run: Annotated[str, typer.Argument(help="Run with projectors, or released .pth")],
    data: Annotated[
        str,
        typer.Argument(help="Images: data=FOLDER (or a pack, PATH:split)", metavar="data=FOLDER"),
    ],
    images: Annotated[int, typer.Option(min=1, help="How many, spread over all")] = 512,
    seed: Annotated[int, typer.Option(help="Of the patches looked at")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass")] = 32,
    out: Annotated[Path | None, typer.Option(help="Write all numbers as JSON here")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw them: .png")] = None,
) -> None:
    """How a student stands to its teachers: CKA, rank, which blocks its ladders read."""
    from alumnus import api
    from alumnus.text_files import check_picture

    check_picture(picture)
    found = api.diagnose(
        run, data.removeprefix("data="), images=images, seed=seed, batch_size=batch_size
    )
    print(found)
    if out is not None:
        found.save(out)
    if picture is not None:
        found.draw(picture)


@app.command()
def extract(
    model: Annotated[str, typer.Argument(help="Run, encoder, released .pth file, or teacher")],
    images: Annotated[str, typer.Argument(help="Folder of images, pack, PATH:split")],
    out: Annotated[Path, typer.Argument(help="File to write: .safetensors")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images, px; the model's own if not given")
    ] = None,
    patches: Annotated[bool, typer.Option("--patches", help="Patch tokens too")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass")] = 64,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file")] = False,
) -> None:
    """Write the features of images to a safetensors file, with their names beside it."""
    from alumnus import api

    shapes = api.extract(
        model,
        images,
        out,
        size=size,
        patches=patches,
        batch_size=batch_size,
        overwrite=overwrite,
    )
    for name, shape in shapes.items():
        print(f"{name}  {list(shape)}")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Run, encoder, or released .pth file")],
    out: Annotated[Path, typer.Argument(help="Folder to write")],
    to: Annotated[
        str, typer.Option(help="timm (transformers opens it too), onnx, or alumnus")
    ] = "timm",
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images of an ONNX network, px")
    ] = None,
    num_heads: Annotated[
        int | None, typer.Option(min=1, help="Of a .pth file whose heads are not 64 wide")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder")] = False,
) -> None:
    """Write an encoder for use without alumnus, and compare what was written."""
    from alumnus import api

    print(api.export(model, out, to, size=size, num_heads=num_heads, overwrite=overwrite))


@app.command()
def text(
    model: Annotated[
        str, typer.Argument(help="CLIP or SigLIP model of transformers: folder or hub id")
    ],
    classes: Annotated[Path, typer.Argument(help="Text file: CLASS or CLASS<tab>WORDS a line")],
    out: Annotated[Path, typer.Argument(help="File to write: .safetensors")],
    space: Annotated[str, typer.Option(help="Teacher of the same model, by its name in the table")],
    templates: Annotated[
        Path | None, typer.Option(help="Text file: a prompt a line, {} for the words")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file")] = False,
) -> None:
    """Write text features of classes, for `alumnus evaluate ... --task zeroshot=OUT,IMAGES`."""
    from alumnus import api

    shape = api.text(model, classes, out, space=space, templates=templates, overwrite=overwrite)
    print(f"text  {list(shape)}")


@app.command()
def visualize(
    models: Annotated[
        list[str], typer.Argument(help="Runs, encoders, released .pth files, or teachers by name")
    ],
    images: Annotated[str, typer.Argument(help="Image, folder of images, pack, PATH:split")],
    out: Annotated[Path, typer.Argument(help="File to write: .png")],
    at: Annotated[
        str | None,
        typer.Option(help="X,Y from 0 to 1: likeness of all patches to the one there"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Images, spread over the folder")] = 6,
    size: Annotated[
        int | None, typer.Option(min=1, help="Short side, px; the model's own if not given")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file")] = False,
) -> None:
    """Draw patch tokens as colours, a student's in the bases of its teachers."""
    from alumnus import api

    print(api.visualize(models, images, out, at=at, count=count, size=size, overwrite=overwrite))


@app.command()
def match(
    words: Annotated[
        list[str],
        typer.Argument(
            help="Two photographs, of any sizes; out=FOLDER for matches, cameras and a picture",
            metavar="LEFT RIGHT [out=FOLDER]",
        ),
    ],
    model: TwoViewModel,
    encoder: HeadEncoder = None,
    focal: Annotated[
        list[float] | None,
        typer.Option(help="Focal length, px; give it twice if they differ; estimated if not given"),
    ] = None,
    overwrite: OverwriteFiles = False,
) -> None:
    """Match two photographs of a scene: `alumnus match LEFT RIGHT --model MAST3R out=OUT`."""
    from alumnus import api

    photographs, out = _photographs_and_out(words)
    if len(photographs) != 2:
        raise ValueError(f"name two photographs, not {len(photographs)}")
    left, right = photographs
    found = api.match(
        left, right, model, out, encoder=encoder, focal=focal or None, overwrite=overwrite
    )
    print(found)


@app.command()
def reconstruct(
    words: Annotated[
        list[str],
        typer.Argument(
            help="Folder of photographs, or two or more; out=FOLDER for cameras, points, a picture",
            metavar="FOLDER [out=FOLDER]",
        ),
    ],
    model: TwoViewModel,
    encoder: HeadEncoder = None,
    focal: Annotated[
        float | None, typer.Option(help="Focal length of all, px; estimated if not given")
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(help="Compare each with so many that follow by name; with all if not given"),
    ] = None,
    least_sure: Annotated[
        float | None,
        typer.Option(help="Keep points from here on; the surest three quarters if not given"),
    ] = None,
    overwrite: OverwriteFiles = False,
) -> None:
    """Cameras and points of a scene: `alumnus reconstruct FOLDER --model MAST3R out=OUT`."""
    from alumnus import api

    photographs, out = _photographs_and_out(words)
    found = api.reconstruct(
        photographs[0] if len(photographs) == 1 else photographs,
        model,
        out,
        encoder=encoder,
        focal=focal,
        window=window,
        least_sure=least_sure,
        overwrite=overwrite,
    )
    print(found)


@app.command()
def people(
    words: Annotated[
        list[str],
        typer.Argument(
            help="Photographs, or folders of them; out=FOLDER for pictures, numbers and meshes",
            metavar="IMAGE... [out=FOLDER]",
        ),
    ],
    model: Annotated[
        str, typer.Option(help="miniworld-people, folder with people.safetensors, Multi-HMR's file")
    ] = "miniworld-people",
    encoder: HeadEncoder = None,
    body: Annotated[
        str | None,
        typer.Option(help="anny, anny-full, smplx=PATH or none; what is at hand if not given"),
    ] = None,
    mesh: Annotated[str, typer.Option(help="Write surfaces as obj, npz or none")] = "obj",
    fov: Annotated[float, typer.Option(help="Degrees across the long side of a photograph")] = 60.0,
    threshold: Annotated[float, typer.Option(help="Least score of a person, 0 to 1")] = 0.3,
    overwrite: OverwriteFiles = False,
) -> None:
    """Find people in photographs: where they are, in which pose: `alumnus people IMAGE out=OUT`."""
    from alumnus import api

    images, out = _photographs_and_out(words)
    api.people(
        images,
        model,
        out,
        encoder=encoder,
        body=body,
        mesh=mesh,
        fov=fov,
        threshold=threshold,
        overwrite=overwrite,
        on_found=lambda found: print(found.table),
    )


@app.command()
def cache(
    recipe: Annotated[str, typer.Argument(help="Recipe whose teachers and images are cached")],
    overrides: Overrides = None,
) -> None:
    """Compute the teacher features of a recipe; goes on where it was stopped."""
    from alumnus import api

    print(api.cache(recipe, *(overrides or [])))


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="Recipe of the run")],
    overrides: Overrides = None,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Without the 20 steps that tell the hours")
    ] = False,
) -> None:
    """Say what a run would need: parameters, FLOPs, memory, disk, hours, licences."""
    from alumnus import api

    print(api.plan(recipe, *(overrides or []), measure=not no_measure))


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="Folder of the run")],
    step: Annotated[int, typer.Argument(min=0, help="Step, counted from 0")],
    images: Annotated[int, typer.Option(min=0, help="Worst images to show")] = 8,
) -> None:
    """Do one step of a run again: which images, teachers and gradients were bad in it."""
    from alumnus import api

    done = api.replay(run, step)
    for teacher, loss in done.losses.items():
        print(f"loss of {teacher}  {loss:.4f}")
    for image in done.images[:images]:
        losses = "  ".join(f"{name} {loss:.4f}" for name, loss in image.losses.items())
        print(f"image {image.position}  {image.source}: {image.identity}  {losses}")
    print(f"images whose loss is not finite: {len(done.bad_images)} of {len(done.images)}")
    bad = done.bad_gradients
    few = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "")
    print(f"gradients that are not finite: {len(bad)} of {len(done.gradient_norms)} {few}".rstrip())


@app.command()
def get(
    names: Annotated[list[str], typer.Argument(help="Teachers: alumnus list teachers")],
    file: Annotated[
        Path | None, typer.Option("--file", help="Official file that you have, of one teacher")
    ] = None,
) -> None:
    """Fetch the weights of teachers into the cache; afterwards they work offline."""
    from alumnus import api

    if file is not None and len(names) != 1:
        raise ValueError("--file is the file of one teacher: name one")
    for name in names:
        print(f"{name}  {api.get(name, file=file)}")


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="teachers, models, recipes or datasets")],
) -> None:
    """Show what there is to choose from."""
    from alumnus.describe import describe

    print(describe(what))


@app.command()
def doctor() -> None:
    """Check this machine: versions, hardware, optional parts, cache, teachers at hand."""
    from alumnus import describe

    print(describe.doctor())


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo's run")] = Path("runs/demo"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="Another length than the recipe's")
    ] = None,
) -> None:
    """Three teachers into one small ViT, evaluated, with pictures: minutes on two CPU cores."""
    from alumnus import api

    with _progress() as on_interval:
        result = api.demo(out, steps=steps, on_interval=on_interval)
    print(result.table)
    stderr.print(f"\npictures: {escape(', '.join(map(str, result.pictures)))}")
    stderr.print(f"The encoder is in {escape(str(result.folder))}; load it with\n")
    print(result.how_to_load)


def _photographs_and_out(words: list[str]) -> tuple[list[str], str | None]:
    """Arguments that name files, and the one that reads out=FOLDER."""
    out = [word.removeprefix("out=") for word in words if word.startswith("out=")]
    if len(out) > 1:
        raise ValueError("give out=FOLDER once")
    return [word for word in words if not word.startswith("out=")], out[0] if out else None


@contextmanager
def _progress() -> Iterator[Callable[["Interval"], None] | None]:
    """A bar at a terminal, in place of the line for each report; elsewhere the lines are enough."""
    if not stderr.is_terminal or not _is_first():
        yield None
        return
    from alumnus.report.progress import ProgressBar

    with ProgressBar(stderr) as bar:
        yield bar


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Errors that a user can mend become their sentences and exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        for line in _words(error).splitlines():
            stderr.print(f"[red]error:[/red] {escape(line)}", soft_wrap=True)
        raise SystemExit(2) from None
    except RuntimeError as error:
        if type(error) is RuntimeError:  # torch's own: a bug, with its traceback
            raise
        label = "" if hasattr(error, "exit_code") else "[red]error:[/red] "  # asked to stop
        stderr.print(f"{label}{escape(str(error))}", soft_wrap=True)
        raise SystemExit(getattr(error, "exit_code", 1)) from None
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C
            stderr.print("stopped; a run goes on with --resume")
        raise


def _words(error: ValueError | OSError) -> str:
    """What an error says, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _is_first() -> bool:
    """Whether this is the process of a run that talks, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _talk() -> None:
    """Send the package's log to stderr: rich at a terminal, plain lines elsewhere."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=stderr, show_path=False, show_level=False, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record: record.name != "alumnus.training.logs")  # the bar's words
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("alumnus")
    logger.setLevel(logging.INFO if _is_first() else logging.ERROR)
    logger.addHandler(handler)


def main() -> None:
    """Entry point of the command `alumnus`."""
    # Threads that wait asleep: as fast alone, and not 2 to 17 times slower beside another process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded, later
    _talk()
    with _one_sentence():
        app(prog_name="alumnus")

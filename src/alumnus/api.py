"""One function per command: what `alumnus COMMAND` does, in one call."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from alumnus import assembly, measure, preflight
from alumnus.bodies import FoundPeople
from alumnus.bodies.photographs import find_in_photographs
from alumnus.comparing import Comparison, check_comparison, compare_models
from alumnus.config import ConfigError, RunConfig, conflicts, load_config, to_yaml
from alumnus.config_errors import Problem
from alumnus.data import open_source
from alumnus.diagnosing import Diagnosis, diagnose_student
from alumnus.evaluation import text_tower
from alumnus.evaluation.depth import DepthProtocol
from alumnus.evaluation.results import Results
from alumnus.evaluation.segmentation import SegmentationProtocol
from alumnus.evaluation.suite import evaluate as evaluate_models
from alumnus.evaluation.tasks import TaskSpec
from alumnus.evaluation.text_features import save_text_features
from alumnus.exporting import Exported, check_export, export_encoder
from alumnus.extraction import extract_to_file
from alumnus.finetune_config import load_finetune_config
from alumnus.finetuning import FinetuneResult, run_finetune
from alumnus.hardware import choose_device
from alumnus.heads import LinearHead, save_linear_head
from alumnus.heads.people import PeopleNetwork
from alumnus.heads.two_view import TwoViewNetwork
from alumnus.planning import make_plan
from alumnus.plans import Plan
from alumnus.reading_out import write_readouts
from alumnus.replaying import ReplayedStep, replay_step
from alumnus.report.relative import relative_picture
from alumnus.run_folder import RunFolder
from alumnus.running import DistillResult, run_config, set_up
from alumnus.runs import is_encoder, keeps_projectors, load_student
from alumnus.scenes import (
    PhotoMatches,
    Reconstruction,
    match_photographs,
    reconstruct_photographs,
)
from alumnus.teachers import fetch_weights, keep_weights
from alumnus.text_files import check_picture
from alumnus.training.distributed import ALONE, join_world
from alumnus.training.loop import Interval
from alumnus.visualizing import parse_place, read_images, write_sheet

__all__ = [
    "DemoResult",
    "DistillResult",
    "FinetuneResult",
    "PhotoMatches",
    "Reconstruction",
    "cache",
    "demo",
    "diagnose",
    "distill",
    "evaluate",
    "export",
    "extract",
    "finetune",
    "get",
    "match",
    "people",
    "plan",
    "reconstruct",
    "replay",
    "show_config",
    "text",
    "visualize",
]

log = logging.getLogger(__name__)

DEMO_IMAGES = 2  # of each domain, in the picture of tokens


def show_config(recipe: str | Path, *overrides: str) -> str:
    """The whole configuration of a run as YAML, which is a recipe itself."""
    return to_yaml(load_config(recipe, overrides))


def distill(
    recipe: str | Path | RunConfig,
    *overrides: str,
    resume: bool = False,
    overwrite: bool = False,
    on_interval: Callable[[Interval], None] | None = None,
    **settings: Any,
) -> DistillResult:
    """Distil the teachers of a recipe into one encoder.

        alumnus.distill("folder", data={"train": "photos"}, out="runs/photos")
        alumnus.distill("folder", "data.train=photos", "out=runs/photos")

    Writes the run folder: configuration, metrics, checkpoints, the encoder, its evaluation.
    `resume` goes on with an interrupted run, and ends with the same weights, bit for bit on a
    CPU, as one that was never stopped. ValueError (ConfigError for settings) in one sentence
    for whatever cannot work, before anything is written.
    """
    config = _checked(recipe, overrides, settings, preflight.before_a_run)
    assert config.out is not None, "checked before the run"
    folder = RunFolder(Path(config.out).expanduser())
    device = choose_device(config.train.device)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    with join_world(device) as world:
        return run_config(
            config,
            folder,
            device,
            world,
            resume=resume,
            overwrite=overwrite,
            on_interval=on_interval,
        )


def finetune(
    encoder: str,
    *overrides: str,
    head: str,
    unfrozen: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    on_interval: Callable[[Interval], None] | None = None,
    **settings: Any,
) -> FinetuneResult:
    """Train a head for a task on an encoder, which stands still unless `unfrozen`.

        alumnus.finetune("runs/photos", head="classes", data="packs/clothing10", out="runs/clothes")
        model = alumnus.load_head("runs/clothes")

    `encoder` is a run, an encoder, a released checkpoint or a teacher; settings are those of
    docs/finetune.md. Writes head.safetensors, its scores on the test images, what resuming needs,
    and the encoder where that learned. ValueError (ConfigError for settings) in one sentence for
    whatever cannot work, before anything is written.
    """
    config = load_finetune_config(
        encoder,
        head,
        overrides,
        {**settings, **({"unfrozen": True} if unfrozen else {})},
        also=preflight.before_finetuning,
    )
    return run_finetune(config, resume=resume, overwrite=overwrite, on_interval=on_interval)


def evaluate(
    models: Sequence[str],
    tasks: Sequence[str] = (),
    *,
    size: int | None = None,
    resize_ratio: float = 1.0,
    trials: int = 40,
    batch_size: int = 64,
    device: str = "auto",
    seed: int = 0,
    segmentation: Mapping[str, Any] | None = None,
    depth: Mapping[str, Any] | None = None,
    heads_out: str | Path | None = None,
    workers: int = 0,
    plot: str | Path | None = None,
) -> Results:
    """Measure runs, encoders, released checkpoints and teachers, all in the same way.

    A run brings its bare encoder, its projection into each teacher's space, the same encoder
    untrained, and its teachers. `tasks` read `knn=PATH`, `logistic=TRAIN,TEST`, `joints=PATH`,
    `zeroshot=TEXT,TEST`, `body=PATH`, `matching=TEST`, `segmentation=PATH`, `depth=PATH`. `size`,
    px, is that of segmentation (512 where not given) and depth (480), and of other tasks where a
    model has none (224), and sets the grid of matching. Images
    are resized to `resize_ratio * size` along the short side, of which `size` is cut out.
    `segmentation` changes how its heads are trained and used: fields of `SegmentationProtocol`;
    `depth` likewise: fields of `DepthProtocol`. The heads of segmentation are written to the
    folder `heads_out`, in DINOv2's layout.

    Models that end in .json are results of earlier evaluations, which are merged with what is
    measured now. `plot`, a .png, shows all models over the best teacher of each task.
    """
    files = [name for name in models if name.endswith(".json")]
    names = [name for name in models if name not in files]
    if names and not tasks:
        raise ValueError(f"on what should {names[0]!r} be measured? add --task KIND=PATH")
    if tasks and not names:
        raise ValueError("no model is given to measure, only results of earlier evaluations")
    check_picture(plot)
    parts = [Results.load(Path(file).expanduser()) for file in files]
    if names:
        measured = _measure(
            names,
            tasks,
            batch_size=batch_size,
            workers=workers,
            device=device,
            size=size,
            resize_ratio=resize_ratio,
            trials=trials,
            seed=seed,
            segmentation=segmentation or {},
            depth=depth or {},
            heads_out=None if heads_out is None else Path(heads_out).expanduser(),
        )
        parts.append(measured)
    results = Results.merged(parts)
    if plot is not None:
        relative_picture(results, Path(plot).expanduser())
    return results


def _measure(
    names: Sequence[str],
    tasks: Sequence[str],
    *,
    batch_size: int,
    workers: int,
    device: str,
    size: int | None,
    resize_ratio: float,
    trials: int,
    seed: int,
    segmentation: Mapping[str, Any],
    depth: Mapping[str, Any],
    heads_out: Path | None,
) -> Results:
    opened = measure.parse_tasks(
        tasks,
        size_px=size,
        resize_ratio=resize_ratio,
        trials=trials,
        seed=seed,
        segmentation=SegmentationProtocol(**segmentation),
        depth=DepthProtocol(**depth),
    )
    chosen = choose_device(device)
    rows = measure.models_of(names, chosen)
    return evaluate_models(
        rows,
        opened,
        batch_size=batch_size,
        num_workers=workers,
        device=chosen,
        on_progress=log.info,
        on_head=None if heads_out is None else partial(_write_head, heads_out),
    )


def _write_head(folder: Path, task: TaskSpec, model: str, head: LinearHead) -> None:
    name = re.sub(r"[^\w.-]+", "-", f"{task.name}-{model}")
    save_linear_head(head, folder / f"{name}.safetensors")


def cache(recipe: str | Path, *overrides: str, **settings: Any) -> Path:
    """Compute the teacher features of a recipe; goes on where it was stopped.

    A run of the same recipe with cache.enabled=true then starts at once.
    """
    settings = {**settings, "cache": {**settings.get("cache", {}), "enabled": True}}
    config = _checked(recipe, overrides, settings, preflight.before_teachers_run)
    device = choose_device(config.train.device)
    setup = set_up(config, device, ALONE)
    assert setup.features is not None, "the cache was enabled above"
    assembly.build_targets(setup.config, setup.pool, setup.features, device)
    if setup.watch is not None:
        setup.watch.fill_cache(device)
    return setup.features.folder


def plan(recipe: str | Path, *overrides: str, measure: bool = True, **settings: Any) -> Plan:
    """What a run of the recipe would need: parameters, operations, memory, disk, hours, licences.

    The hours come from 20 steps of the real student on real images, of which nothing is kept;
    without `measure` they are left out. `print(alumnus.plan("folder", "data.train=photos"))`.
    """
    config = _checked(recipe, overrides, settings, preflight.before_teachers_run)
    device = choose_device(config.train.device)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    return make_plan(config, device, measure=measure)


def compare(
    models: Sequence[str],
    data: str,
    *,
    images: int = 512,
    seed: int = 0,
    batch_size: int = 32,
    device: str = "auto",
) -> Comparison:
    """Which teachers repeat each other, and what each adds, from unlabelled images.

        audit = alumnus.compare(["efficientnet-lite0", "efficientnet-lite2", "blazepose"], "photos")
        print(audit)
        audit.draw(Path("audit.png"))

    `models` are teachers, runs (their bare encoder), encoders or released checkpoints.
    """
    chosen = choose_device(device)
    source = open_source(data)
    check_comparison(models, source, images)
    rows = [measure.bare_model(name, chosen) for name in models]
    return compare_models(
        rows, source, images=images, seed=seed, batch_size=batch_size, device=chosen
    )


def diagnose(
    run: str,
    data: str,
    *,
    images: int = 512,
    seed: int = 0,
    batch_size: int = 32,
    device: str = "auto",
) -> Diagnosis:
    """How a student stands to its teachers, from unlabelled images.

        found = alumnus.diagnose("runs/unic", "photos")
        print(found)
        found.draw(Path("diagnosis.png"))

    CKA of the bare encoder, its projections and the untrained encoder with each teacher, for
    image and patch features; the effective rank of each; and which encoder blocks the ladders
    read. `run` is one with its projectors, or a released UNIC or DUNE checkpoint.
    """
    path = Path(run).expanduser()
    if not keeps_projectors(path):
        raise ValueError(f"{run!r} is no run with projectors, which a diagnosis looks at")
    source = open_source(data)
    chosen = choose_device(device)
    loaded = load_student(path)
    return diagnose_student(
        path.resolve().name,
        loaded,
        measure.models_of([run], chosen),
        source,
        images=images,
        seed=seed,
        batch_size=batch_size,
        device=chosen,
    )


def extract(
    model: str,
    images: str,
    out: str | Path,
    *,
    size: int | None = None,
    patches: bool = False,
    batch_size: int = 64,
    overwrite: bool = False,
    device: str = "auto",
) -> dict[str, tuple[int, ...]]:
    """Write the features of images to a safetensors file; the shapes that were written.

    `model` is a run (its bare encoder), an encoder, a released checkpoint or a teacher; `size`,
    px, that of the model where not given.
    """
    path = Path(out).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"features are written as .safetensors, so {path} needs that ending")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} is there already: add --overwrite, or choose another file")
    chosen = choose_device(device)
    source = open_source(images)
    row = measure.bare_model(model, chosen)
    return extract_to_file(
        row, source, path, size_px=size, patches=patches, batch_size=batch_size, device=chosen
    )


def export(
    model: str | Path,
    out: str | Path,
    to: str = "timm",
    *,
    size: int | None = None,
    num_heads: int | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write an encoder for use without alumnus: `to` is timm, onnx or alumnus; into a new folder.

    `model` is a run (its bare encoder), an encoder or a released checkpoint. `timm` is a folder
    that timm and transformers open; `onnx` one network for square images of `size` px, any number
    of them; `alumnus` what a run keeps, such as of a `.pth` (`num_heads` as for `load`). ValueError
    where the format cannot hold the encoder; then nothing is written.
    """
    folder, path = Path(out).expanduser(), Path(model).expanduser()
    chosen = check_export(folder, to, overwrite=overwrite)
    if not is_encoder(path):
        raise ValueError(
            f"there is no encoder in {model}: name a run, a folder with encoder.safetensors, or a "
            "released .pth"
        )
    return export_encoder(path, folder, chosen, size_px=size, num_heads=num_heads)


def text(
    model: str,
    classes: str | Path,
    out: str | Path,
    *,
    space: str,
    templates: str | Path | None = None,
    overwrite: bool = False,
) -> tuple[int, ...]:
    """Write the text features of classes, for `zeroshot=OUT,IMAGES`; their shape [C, P].

    `model` is a CLIP or SigLIP model of transformers (a folder or a hub id), the counterpart of
    the teacher `space`; its output projection goes into the file. `classes` is a text file of
    lines `CLASS` or `CLASS<tab>WORDS`, `templates` one of prompts with {} for the words.
    """
    path = Path(out).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"text features are written as .safetensors, so {path} needs that ending")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} is there already: add --overwrite, or choose another file")
    words = text_tower.read_classes(classes)
    prompts: tuple[str, ...] = text_tower.DEFAULT_TEMPLATES
    if templates is not None:
        prompts = text_tower.read_templates(templates)
    features, projection = text_tower.encode_classes(model, [*words.values()], templates=prompts)
    made = save_text_features(path, features, [*words], space=space, projection=projection)
    return tuple(made.text.shape)


def visualize(
    models: Sequence[str],
    images: str,
    out: str | Path,
    *,
    at: str | None = None,
    count: int = 6,
    size: int | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> Path:
    """Draw what models see in images: a PNG with a row an image and a column a model.

    Patch tokens in the colours of their first three principal components; with `at`, "X,Y" in
    shares of width and height, the likeness of all patches to the one there. A run brings its
    bare encoder, its projections and its teachers; a projection has the basis of its teacher.
    `images` is one file, or a source of which `count` are shown. `size`, px of the short side,
    is a model's own where not given.
    """
    path = Path(out).expanduser()
    check_picture(path)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} is there already: add --overwrite, or choose another file")
    place = None if at is None else parse_place(at)
    shown = read_images(images, count)
    chosen = choose_device(device)
    rows = [row for row in measure.models_of(models, chosen) if row.kind != "baseline"]
    return write_sheet(rows, shown, path, at=place, size_px=size, device=chosen)


def match(
    left: str | Path | Image.Image,
    right: str | Path | Image.Image,
    model: str | Path | TwoViewNetwork,
    out: str | Path | None = None,
    *,
    encoder: str | None = None,
    focal: float | Sequence[float] | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> PhotoMatches:
    """Match two photographs of one scene, of any sizes, and find the right one's camera.

        found = alumnus.match("left.jpg", "right.jpg", "mast3r.pth", out="found")
        found.left, found.right, found.confidence  # [k, 2] pixels twice, [k]
        found.pose  # of the right camera; None where the matches agree on none

    `model` and `encoder` are those of `load_two_view`, or a network that is open. `focal`, px, is
    that of both photographs, or a list of two; estimated where not given. The folder `out` gets
    matches.csv, cameras.json and matches.png. ValueError in one sentence for what cannot work,
    before anything is computed.
    """
    return match_photographs(
        left,
        right,
        model,
        None if out is None else Path(out).expanduser(),
        encoder=encoder,
        focal=focal,
        overwrite=overwrite,
        device=device,
    )


def reconstruct(
    photographs: str | Path | Sequence[str | Path | Image.Image],
    model: str | Path | TwoViewNetwork,
    out: str | Path | None = None,
    *,
    encoder: str | None = None,
    focal: float | Sequence[float] | None = None,
    window: int | None = None,
    least_sure: float | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> Reconstruction:
    """Cameras and points of a scene, from a folder or a list of two or more photographs.

        scene = alumnus.reconstruct("photos", "mast3r.pth", out="scene")
        scene.poses, scene.K, scene.cloud.points  # [n, 4, 4], [n, 3, 3], [k, 3]

    `model`, `encoder` and `focal` are those of `match`. With `window` each photograph is compared
    with so many that follow by name, else with all. Points are kept that are at least
    `least_sure` (ln(1 + conf - lowest)), else the surest three quarters. The folder `out` gets
    cameras.json, points.ply and views.png. ValueError in one sentence for what cannot work.
    """
    return reconstruct_photographs(
        photographs,
        model,
        None if out is None else Path(out).expanduser(),
        encoder=encoder,
        focal=focal,
        window=window,
        least_sure=least_sure,
        overwrite=overwrite,
        device=device,
    )


def people(
    images: str | Path | Image.Image | Sequence[str | Path | Image.Image],
    model: str | Path | PeopleNetwork = "miniworld-people",
    out: str | Path | None = None,
    *,
    encoder: str | None = None,
    body: str | None = None,
    mesh: str = "obj",
    fov: float = 60.0,
    threshold: float = 0.3,
    overwrite: bool = False,
    device: str = "auto",
    on_found: Callable[[FoundPeople], None] | None = None,
) -> list[FoundPeople]:
    """Find the people in photographs, with their poses and shapes; one answer a photograph.

        [found] = alumnus.people("party.jpg", "multiHMR_672_L.pt", out="found")
        found.translation  # [P, 3] metres, of each person's head joint

    `images` are files, folders of them, or pictures of Pillow; `model` and `encoder` those of
    `load_people`, or a network that is open. `body` is one of `anny`, `anny-full`, `smplx=PATH`,
    `none`; None: the one that is at hand. `fov`, degrees across the long side of a photograph.
    In the folder `out` each photograph gets NAME.json, NAME.png and, with a body, its mesh (`obj`,
    `npz`, or `none`); then `on_found` is called. A photograph that cannot be read is left out,
    with a warning. ValueError in one sentence for whatever else cannot work, before anything is
    computed; no photograph that is given is written over.
    """
    given = [images] if isinstance(images, str | Path | Image.Image) else list(images)
    return find_in_photographs(
        given,
        model,
        None if out is None else Path(out).expanduser(),
        encoder=encoder,
        body=body,
        mesh=mesh,
        fov_deg=fov,
        threshold=threshold,
        overwrite=overwrite,
        device=device,
        on_found=on_found,
    )


def replay(run: str | Path, step: int) -> ReplayedStep:
    """Do one step of a run again and say which images, teachers and gradients were bad in it.

    `step` counts from 0, as the sentence of a run that stopped names it. Nothing is written.
    """
    return replay_step(RunFolder(Path(run).expanduser()), step)


def get(name: str, *, file: str | Path | None = None) -> Path:
    """Fetch the weights of a teacher into the cache, so that it works offline from then on.

    `file` is one that you have: it is checked, and kept for this teacher instead.
    """
    return fetch_weights(name) if file is None else keep_weights(name, Path(file))


@dataclass(frozen=True)
class DemoResult(DistillResult):
    """The demo's run and its pictures: what tokens know, and the tokens themselves."""

    pictures: tuple[Path, ...]


def demo(
    out: str | Path = "runs/demo",
    *,
    steps: int | None = None,
    on_interval: Callable[[Interval], None] | None = None,
) -> DemoResult:
    """Three teachers of other tasks and pictures into one small ViT, evaluated and drawn."""
    words = [f"out={out}", *([f"optim.steps={steps}"] if steps else [])]
    repeated = RunFolder(Path(out)).config.is_file()
    result = distill("demo", *words, overwrite=repeated, on_interval=on_interval)
    rows = measure.models_of([str(result.folder)], torch.device("cpu"))
    teachers = {row.name: row for row in rows if row.kind == "teacher"}
    beside = [replace(row, name="student") for row in rows if row.kind == "student"]
    beside += [row for row in rows if row.kind == "baseline"]
    read = write_readouts(teachers, beside, result.folder / "readouts.png")
    sources = [open_source(f"miniworld:{domain}:test") for domain in teachers]
    images = [source.read(i).image for source in sources for i in range(DEMO_IMAGES)]
    shown = [row for row in rows if row.kind != "baseline"]
    drawn = write_sheet(shown, images, result.folder / "pca.png")
    return DemoResult(result.folder, result.steps, result.loss, result.results, (read, drawn))


def _checked(
    recipe: str | Path | RunConfig,
    overrides: Sequence[str],
    settings: Mapping[str, Any],
    also: Callable[[RunConfig], Iterable[Problem]],
) -> RunConfig:
    """The configuration of a run that can begin; ConfigError with all that stands in its way."""
    if not isinstance(recipe, RunConfig):
        return load_config(recipe, overrides, settings, also=also)
    if said := [problem.sentence for problem in (*conflicts(recipe), *also(recipe))]:
        raise ConfigError("\n".join(dict.fromkeys(said)))
    return recipe

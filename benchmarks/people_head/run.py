"""The same people head on frozen encoders: student, teachers, random weights, on two domains.

    python -m benchmarks.people_head.run --student runs/mini-dune [--pack packs/people]
        [--only people ...] [--steps 700] [--out runs/people-head] [--results docs/results]

Each arm is `alumnus finetune ENCODER --head people` on rendered people, scored on others; then the
finished network looks at the photographs of the pack (2D joints), and a linear map of the frozen
tokens is fitted to the pack's own training photographs (`joints` of `alumnus evaluate`). An arm
adds a line to OUT/runs.jsonl; what has one is skipped, and one that was killed goes on. At the end
the tables, JSON and picture of docs/results are written anew.
"""

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import alumnus
from alumnus import measure
from alumnus.bodies import find_people, load_people, open_body
from alumnus.data import open_source
from alumnus.encoders import build_encoder
from alumnus.evaluation.features import joints_of
from alumnus.evaluation.joints import constant_joints, pck
from alumnus.evaluation.suite import CONSTANT, evaluate
from alumnus.heads.people import PeopleNetwork
from alumnus.miniworld import MiniworldSource, render_person, teacher_folder
from alumnus.miniworld.body import JOINTS
from alumnus.miniworld.fit import SPEC
from alumnus.miniworld.people_bodies import PeopleData, read_people
from alumnus.miniworld.people_learning import predict
from alumnus.miniworld.people_pictures import drawn_over
from alumnus.miniworld.score_people import constant_scores, shipped_scores
from alumnus.miniworld.sheet import tiled
from alumnus.miniworld.torch_body import TorchBody
from alumnus.runs import save_encoder
from benchmarks.result_pages import filled, table
from benchmarks.run_lines import add_line, read_lines

TEACHERS = ("people", "rooms", "objects")
ARMS = ("student", *TEACHERS, "random weights")
DATA = "miniworld:people:train,miniworld:people:test"
STEPS = 700
TRAIN, TEST, FITTED = 9600, 960, 2880  # people; of the constant predictions
SHOWN = 7  # people in the picture
COLUMNS = {
    "pve_mm": "PVE, mm ↓",
    "pa_pve_mm": "PA-PVE ↓",
    "mpjpe_mm": "MPJPE ↓",
    "pa_mpjpe_mm": "PA-MPJPE ↓",
    "pelvis_mm": "pelvis ↓",
    "pck": "PCK",
    "precision": "precision",
    "recall": "recall",
}
# the pack's joints among the miniworld's, in the pack's order
PACK_JOINTS = (
    *("ankle_right", "knee_right", "hip_right", "hip_left", "knee_left", "ankle_left"),
    *("wrist_right", "elbow_right", "shoulder_right"),
    *("shoulder_left", "elbow_left", "wrist_left", "neck", "head_top"),
)

log = logging.getLogger("alumnus.people_head")
Record = dict[str, Any]


def encoder_of(arm: str, student: str, out: Path) -> str:
    """What `alumnus finetune` calls it; random weights are written first."""
    if arm == "student":
        return student
    if arm in TEACHERS:
        return str(teacher_folder(arm))
    folder = out / "untrained"
    if not folder.is_dir():
        torch.manual_seed(0)
        save_encoder(folder, build_encoder(SPEC), SPEC)
    return str(folder)


def run_arm(arm: str, student: str, *, out: Path, steps: int, pack: Path | None) -> Record:
    """Train, score on rendered people and on photographs; one line."""
    encoder, folder = encoder_of(arm, student, out), out / arm.replace(" ", "-")
    cpu = time.process_time()
    result = alumnus.finetune(
        encoder,
        f"data={DATA}",
        f"steps={steps}",
        "threads=1",
        f"out={folder}",
        head="people",
        resume=folder.is_dir(),
    )
    took = (time.process_time() - cpu) / 60
    [of_models] = result.results.scores.values()
    score = next(score for name, score in of_models.items() if name != CONSTANT)
    record: Record = {
        "arm": arm,
        "steps": steps,
        "core_minutes": round(took, 1),
        "scores": numbers(score.details),
    }
    if (Path(encoder) / "people.safetensors").is_file():
        test = read_people(MiniworldSource("people", "test", length=TEST))
        record["own_head"] = numbers(shipped_scores(Path(encoder), test))
    if pack is not None:
        record["pck_of_network"] = pck_on_photographs(load_people(folder), pack)
        record["pck_of_linear_map"] = pck_of_linear_map(encoder, pack)
    return record


def numbers(details: Mapping[str, Any]) -> dict[str, float]:
    """The columns of the table."""
    return {name: round(float(details[name]), 1) for name in COLUMNS}


def pck_on_photographs(network: PeopleNetwork, pack: Path) -> float:
    """PCK@0.2 on the pack's test photographs, of the surest person of each."""
    source, names = open_source(f"{pack}:test"), [name for name, _ in JOINTS]
    chosen = [names.index(name) for name in PACK_JOINTS]
    body = open_body("anny", network.head.spec)
    truth, sizes = joints_in(pack, "test")
    found = []
    for index, size in enumerate(sizes):
        picture = source.read(index).image
        person = find_people(network, picture, body=body, only_surest=True)
        assert person.joint_pixels is not None, "there is a body"
        found.append(person.joint_pixels[0, chosen] / size)
    return round(pck(torch.stack(found), truth, sizes).pck, 1)


def pck_of_linear_map(encoder: str, pack: Path) -> float:
    """`alumnus evaluate ENCODER --task joints=PACK --size 64`, of the bare encoder alone."""
    row = measure.bare_model(encoder, torch.device("cpu"))
    tasks = measure.parse_tasks([f"joints={pack}"], size_px=SPEC.image_size, trials=1)
    results = evaluate([row], tasks, batch_size=64)
    found = results.value(tasks[0].name, row.name)
    assert found is not None, "every encoder has patches"
    return round(found, 1)


def joints_in(pack: Path, split: str) -> tuple[Tensor, Tensor]:
    """Places and visibility [n, J, 3], and sizes [n, 2], of a split of the pack."""
    source = open_source(f"{pack}:{split}")
    joints, sizes = [], []
    for index in range(len(source)):
        sample = source.read(index)
        picture, fields = sample.image, sample.fields
        x, y, seen = torch.tensor(joints_of(fields)).unbind(dim=1)
        joints.append(torch.stack([x / picture.width, y / picture.height, seen], dim=1))
        sizes.append(torch.tensor(picture.size))
    return torch.stack(joints), torch.stack(sizes)


def constants(pack: Path | None) -> Record:
    """Mean points and mean pose of rendered people; mean places of the photographs' joints."""
    train, test = (
        read_people(MiniworldSource("people", split, length=length))
        for split, length in (("train", FITTED), ("test", TEST))
    )
    record: Record = {"arm": "constant"}
    for name, scores in constant_scores(train, test).items():
        record[name] = numbers(scores)
    if pack is not None:
        (known, _), (truth, sizes) = (joints_in(pack, split) for split in ("train", "test"))
        mean = constant_joints(known, len(truth))
        record["pck_of_linear_map"] = round(pck(mean, truth, sizes).pck, 1)
    return record


def tables(records: Sequence[Record]) -> dict[str, list[str]]:
    """The page's two tables, in Markdown."""
    held = {record["arm"]: record for record in records}
    constant = held.get("constant", {})
    rendered: list[list[object]] = [
        [name, *constant[name].values(), None]
        for name in ("mean pose", "mean points")
        if name in constant
    ]
    photos: list[list[object]] = []
    if "pck_of_linear_map" in constant:
        photos.append(["mean places", None, constant["pck_of_linear_map"]])
    for arm, record in ((arm, held[arm]) for arm in reversed(ARMS) if arm in held):
        scores = [record["scores"][name] for name in COLUMNS]
        rendered.append([_named(arm), *scores, record["core_minutes"]])
        if "own_head" in record:
            rendered.append([f"{_named(arm)}, own head", *record["own_head"].values(), None])
        if "pck_of_network" in record:
            photos.append([_named(arm), record["pck_of_network"], record["pck_of_linear_map"]])
    seen = ["encoder", "its network of rendered people", "linear map fitted to the photographs"]
    return {
        "rendered": table(["head on", *COLUMNS.values(), "core-minutes"], rendered),
        "photographs": table(seen, photos),
    }


def _named(arm: str) -> str:
    return f"teacher for {arm}" if arm in TEACHERS else arm


def draw(out: Path, arms: Sequence[str], path: Path) -> None:
    """Test people in columns: as they are, and the body that each arm sees, a row an arm."""
    people: PeopleData = read_people(MiniworldSource("people", "test", length=SHOWN))
    seen = [render_person(2, i, 112) for i in range(SHOWN)]
    rows = [person.image for person in seen]
    for arm in arms:
        network = load_people(out / arm.replace(" ", "-"))
        found = predict(network.encoder, network.head, TorchBody(), people.view(slice(None)))
        rows += [
            drawn_over(person.image // 2, found.vertices[i].numpy(), person.K)
            for i, person in enumerate(seen)
        ]
    sheet = Image.fromarray(tiled(rows, columns=SHOWN))
    sheet.quantize(256).save(path, optimize=True)


def main() -> None:
    """Run what is missing, then write tables, JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", required=True, help="run or encoder")
    parser.add_argument("--pack", type=Path, help="photographs with 2D joints")
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=Path("runs/people-head"))
    parser.add_argument("--results", type=Path, help="folder of people.md, people.json")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    lines = given.out / "runs.jsonl"
    records = read_lines(lines)
    for arm in ("constant", *given.only):
        if arm in {record["arm"] for record in records}:
            continue
        if arm == "constant":
            record = constants(given.pack)
        else:
            record = run_arm(arm, given.student, out=given.out, steps=given.steps, pack=given.pack)
        records.append(record)
        add_line(lines, record)
    made = tables(records)
    print("\n".join(line for lines in made.values() for line in [*lines, ""]))
    if given.results is not None:
        page = given.results / "people.md"
        page.write_text(filled(page.read_text(), made))
        text = json.dumps({"runs": records}, indent=1) + "\n"
        (given.results / "people.json").write_text(text)
        arms = [arm for arm in ARMS if arm in {record["arm"] for record in records}]
        draw(given.out, arms, given.results / "people.png")


if __name__ == "__main__":
    main()

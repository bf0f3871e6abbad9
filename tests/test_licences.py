"""Licences as data: what teachers state, what a student inherits, what is refused."""

import doctest
import json
from pathlib import Path

import pytest

import alumnus
import toys
from alumnus import assembly, licences
from alumnus.config import RunConfig
from alumnus.licences import DATA, LICENCES, POLICIES, Licence, Terms, find_licence, refusals
from alumnus.teachers import TEACHERS, load_teacher
from golden_files import golden_path


def said(*terms: Terms) -> str:
    return "\n".join(licences.sentences(terms))


def refused(policy: licences.Policy, **stated: str) -> dict[str, str]:
    return dict(refusals(policy, [Terms(of, licence) for of, licence in stated.items()]))


def test_docstring_examples_are_true() -> None:
    results = doctest.testmod(licences)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize("name", TEACHERS)
def test_the_licence_of_a_registered_teacher_is_known(name: str) -> None:
    licence = find_licence(TEACHERS[name].traits.licence)
    assert "unclear" not in (licence.commercial, licence.share_alike, licence.notice)


@pytest.mark.parametrize("licence", [*LICENCES.values(), *DATA.values()], ids=lambda row: row.name)
def test_licences_are_found_in_any_case_and_point_to_their_text(licence: Licence) -> None:
    if licence.name in {row.name for row in LICENCES.values()}:
        assert find_licence(licence.name.upper()) is licence
    assert licence.url is None or licence.url.startswith("https://")


@pytest.mark.parametrize(
    ("written", "commercial", "share_alike"),
    [
        ("agpl-3.0", "yes", "yes"),
        ("gpl-3.0", "yes", "yes"),
        ("GPL-2.0-or-later", "yes", "yes"),
        ("lgpl-2.1", "yes", "yes"),
        ("cc-by-3.0", "yes", "no"),
        ("cc-by-sa-3.0", "yes", "yes"),
        ("cc-by-nc-2.0", "no", "no"),
        ("cc-by-nc-nd-4.0", "no", "unclear"),
        ("cc-by-nc-sa-3.0", "no", "yes"),
        ("cc-by-nc-sa-3.0-igo", "no", "yes"),
        ("cc", "unclear", "unclear"),
    ],
)
def test_licences_are_known_as_model_cards_write_them(
    written: str, commercial: str, share_alike: str
) -> None:
    licence = find_licence(written)
    assert (licence.commercial, licence.share_alike) == (commercial, share_alike)
    assert (f"a states {written} (commercial" in said(Terms("a", written))) == (written != "cc")


def test_unclear_is_an_answer() -> None:
    assert find_licence("homemade") == Licence("homemade", "unclear", "unclear", "unclear")
    text = said(Terms("a", "homemade"))
    assert "a states homemade" in text
    assert "student: unclear, as nothing that is known here covers a" in text


def test_the_student_inherits_every_restriction_and_its_teacher_is_named() -> None:
    assert "no teacher states a restriction" in said(Terms("a", "Apache-2.0"), Terms("b", "MIT"))
    alike = said(*(Terms(name, "MIT", ("Own",)) for name in "abc")).splitlines()
    assert alike[0].startswith("a, b and c state MIT (commercial use yes")
    text = said(
        Terms("a", "apache-2.0", ("ImageNet-1K",)),
        Terms("b", "CC-BY-NC-4.0"),
        Terms("c", "CC-BY-NC-SA-4.0", ("Other",)),
        Terms("d", "unknown"),
    )
    assert "b and c forbid commercial use" in text
    assert "c asks for the same terms" in text
    assert "unclear, as nothing that is known here covers d" in text
    assert "trained on ImageNet-1K (terms of access: non-commercial research and education)" in text
    assert "whether the terms of ImageNet-1K reach" in text
    assert "trained on Other (terms of its images not published)" in text
    assert "no legal advice" in text


@pytest.mark.parametrize(
    ("licence", "permissive", "or_unclear"),
    [
        ("Apache-2.0", True, True),
        ("nvidia-open-model-license", True, True),
        ("CC-BY-NC-4.0", False, False),
        ("dinov3-license", False, False),  # share-alike
        ("unknown", False, True),
    ],
)
def test_permissive_refuses_what_is_not_and_unclear_has_to_be_allowed(
    licence: str, permissive: bool, or_unclear: bool
) -> None:
    assert (not refused("permissive", t=licence)) == permissive
    assert (not refused("permissive-or-unclear", t=licence)) == or_unclear
    assert not refused("any", t=licence)
    assert all("\n" not in s for policy in POLICIES for s in refused(policy, t=licence).values())


def test_an_unclear_licence_is_refused_with_what_to_do() -> None:
    sentence = refused("permissive", photos="unknown")["photos"]
    assert "teachers.photos.licence=SPDX-ID" in sentence
    assert "licence=permissive-or-unclear" in sentence


WORDS = ("data.train=photos", "train.precision=fp32", "out=run", "evaluate.tasks=[]")
STATED = ("teachers.red.licence=CC-BY-NC-4.0", "teachers.blue.licence=MIT")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    toys.write_recipe(tmp_path)
    toys.write_images(tmp_path / "photos")
    return tmp_path


def test_a_run_says_what_its_student_inherits_and_writes_it_beside_the_weights(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="alumnus"):
        alumnus.distill("toy.yaml", *WORDS, *STATED)
    assert "licences  student: red forbids commercial use" in caplog.text
    assert "student: red forbids commercial use" in (place / "run" / "licences.txt").read_text()
    info = json.loads((place / "run" / "encoder.json").read_text())["info"]
    assert [Terms.from_dict(terms) for terms in info["inherits"]] == [
        Terms("red", "CC-BY-NC-4.0"),
        Terms("blue", "MIT"),
    ]
    plan = alumnus.plan("toy.yaml", *WORDS, *STATED, measure=False)
    assert list(plan.licences) == (place / "run" / "licences.txt").read_text().splitlines()


def test_a_student_that_teaches_passes_on_what_it_inherited(place: Path) -> None:
    alumnus.distill("toy.yaml", *WORDS, *STATED)
    teacher = load_teacher("run", name="first")
    assert teacher.licence == "CC-BY-NC-4.0 + MIT"
    assert teacher.terms == (Terms("first/red", "CC-BY-NC-4.0"), Terms("first/blue", "MIT"))
    with pytest.raises(ValueError, match=r"first/red states CC-BY-NC-4\.0, which does not allow"):
        alumnus.distill(
            "toy.yaml",
            "data.train=photos",
            "out=second",
            "licence=permissive",
            teachers={"first": {"model": "run"}},
        )
    assert not (place / "second").exists()


def test_weights_that_a_student_starts_from_bring_their_terms_too(place: Path) -> None:
    alumnus.distill("toy.yaml", *WORDS, *STATED)
    stated = ("teachers.red.licence=MIT", "teachers.blue.licence=MIT")
    again = ("data.train=photos", "train.precision=fp32", "out=again", "init=run", *stated)
    alumnus.distill("toy.yaml", *again, "evaluate.tasks=[]")
    info = json.loads((place / "again" / "encoder.json").read_text())["info"]
    assert [Terms.from_dict(terms) for terms in info["inherits"]] == [
        Terms("red", "MIT"),
        Terms("blue", "MIT"),
        Terms("init/red", "CC-BY-NC-4.0"),
    ]
    with pytest.raises(ValueError, match=r"init/red states CC-BY-NC-4\.0"):
        alumnus.distill("toy.yaml", *again, "out=third", "licence=permissive")


@pytest.mark.golden
def test_a_released_checkpoint_brings_what_its_authors_state(tmp_path: Path) -> None:
    (tmp_path / "dune.pth").touch()
    config = RunConfig.model_validate({"init": str(tmp_path / "dune.pth")})
    assert assembly.inherited(config, {}) == [Terms("init/dune", "CC-BY-NC-SA-4.0")]
    file = golden_path("dune_checkpoint.pth")
    teacher = load_teacher(str(file), name="first")
    assert teacher.licence == "CC-BY-NC-SA-4.0"
    assert teacher.terms == (Terms("first/dune_checkpoint", "CC-BY-NC-SA-4.0"),)


def test_published_weights_of_a_student_bring_their_licence() -> None:
    model = "vit_huge_patch14_clip_224.metaclip_2pt5b"
    student = {"model": f"timm:{model}", "pretrained": True}
    config = RunConfig.model_validate({"student": student})
    (terms,) = assembly.inherited(config, {})
    assert find_licence(terms.licence).commercial == "no"
    assert terms.of == f"student/{model}"


def test_what_is_known_without_loading_is_refused_together_with_all_else(place: Path) -> None:
    alumnus.distill("toy.yaml", *WORDS, *STATED)
    closed = "vit_huge_patch14_clip_224.metaclip_2pt5b"
    with pytest.raises(ValueError, match="there is no folder 'nothing'") as refused:
        alumnus.distill(
            "toy.yaml",
            "data.train=nothing",
            "out=second",
            "licence=permissive",
            "init=run",
            teachers={"big": {"model": f"timm:{closed}"}, "first": {"model": "run"}},
        )
    for of in ("big", "first/red", "init/red"):
        assert f"{of} states " in str(refused.value)
    assert "first/blue" not in str(refused.value)


def test_a_pool_that_breaks_the_policy_is_refused_before_anything_is_fetched(place: Path) -> None:
    words = ("data.train=photos", "out=run", "licence=permissive")
    with pytest.raises(ValueError, match=r"metaclip-vith14 states CC-BY-NC-4\.0, which does not"):
        alumnus.distill("toy.yaml", *words, "teachers=dino-vitb16,metaclip-vith14")
    with pytest.raises(ValueError, match=r"what red allows \(unknown\) is unclear"):
        alumnus.distill("toy.yaml", *words)
    assert not (place / "run").exists()
    allowed = ("licence=permissive-or-unclear", "optim.steps=1")
    assert alumnus.distill("toy.yaml", *WORDS, *allowed).steps == 1

"""Configuration: strict, all problems at once, each with the choices and the nearest spelling."""

from pathlib import Path

import pytest

from alumnus.config import ConfigError, load_config, recipe_names, to_yaml


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text("teachers: efficientnet-lite0\noptim: {epochs: 3, lr: 3e-4}\n")
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_says_what_it_is(name: str) -> None:
    config = load_config(name)
    assert config.description


def test_a_printed_configuration_is_a_recipe_of_the_same_run(recipe: Path) -> None:
    config = load_config(recipe, ["data.train=a,b", "optim.betas=[0.9, 0.95]"])
    printed = recipe.with_name("printed.yaml")
    printed.write_text(to_yaml(config))
    assert load_config(printed) == config


def test_shorthands_spell_out_teachers_and_sources(recipe: Path) -> None:
    config = load_config(recipe, ["teachers=efficientnet-lite0,timm:a.b", "data.train=x,y:test"])
    assert {n: t.model for n, t in config.teachers.items()} == {
        "efficientnet-lite0": "efficientnet-lite0",
        "a_b": "timm:a.b",
    }
    assert [source.path for source in config.data.train] == ["x", "y:test"]


def test_python_settings_and_command_line_words_mean_the_same(recipe: Path) -> None:
    words = load_config(recipe, ["data.train=photos", "optim.lr=1e-3", "out=runs/x"])
    nested = load_config(
        recipe, settings={"data": {"train": "photos"}, "optim": {"lr": 1e-3}, "out": "runs/x"}
    )
    assert words == nested


def test_steps_given_later_replace_the_epochs_of_the_recipe(recipe: Path) -> None:
    config = load_config(recipe, ["optim.steps=10"])
    assert config.optim.steps == 10
    assert config.optim.epochs is None


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("standardize.kind=runing", "did you mean 'running'?"),
        ("standardise.kind=running", "did you mean 'standardize'?"),
        ("data.tran=photos", "did you mean 'data.train'?"),
        ("teachers.efficientnet-lite0.wieghts=x", "efficientnet-lite0.weights'?"),
        ("optim.lr=fast", "optim.lr is 'fast', but must be a valid number"),
        ("optim.batch_size=1.5", "optim.batch_size is 1.5, but must be"),
        ("balance.drop_p=2", "less than or equal to 1 or 'auto'"),
        ("data.size=100", "no multiple of student.patch_size 16; the nearest: 96 and 112"),
        ("projector.num_blocks=2", "num_blocks is no option of the ladder projector"),
        ("optim.epochs=null", "as epochs or as steps"),
        ("nonsense", "'nonsense' is not of the form key=value"),
        ("teachers={}", "at least one teacher is needed"),
        ("teachers={a.b: {model: x}}", "letters, digits, - and _ only"),
        ("data.size=[1", "data.size=[1: "),
        ("data.temperature=3", "data.temperature is that of data.sampling=temperature, but"),
    ],
)
def test_a_bad_setting_is_one_helpful_sentence(recipe: Path, word: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(recipe, [word])
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_all_problems_are_reported_at_once(recipe: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(recipe, ["standardize.kind=runing", "optim.lr=fast", "data.tran=x"])
    assert len(str(caught.value).splitlines()) == 3


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown recipe 'foldr'.*did you mean 'folder'"):
        load_config("foldr")


@pytest.mark.parametrize("circle", [["a"], ["a", "b"]], ids=["itself", "in a circle"])
def test_a_recipe_that_extends_itself_is_refused(circle: list[str], tmp_path: Path) -> None:
    for name, other in zip(circle, [*circle[1:], circle[0]], strict=True):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {other}.yaml\nout: runs/{name}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml' extends itself$"):
        load_config(tmp_path / "a.yaml")


def test_commas_inside_braces_separate_no_sources(recipe: Path) -> None:
    config = load_config(recipe, ["data.train=here/{a,b}-{00..09}.tar,photos"])
    assert [source.path for source in config.data.train] == ["here/{a,b}-{00..09}.tar", "photos"]

"""The page of settings is that of the configuration, and every setting says what it is."""

import subprocess
from pathlib import Path

import pytest

from alumnus.config import RunConfig, load_config
from alumnus.finetune_config import FinetuneConfig
from alumnus.settings import in_page, list_settings

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
SETTINGS = [
    setting
    for root in (RunConfig, FinetuneConfig)
    for _, settings in list_settings(root)
    for setting in settings
]


@pytest.mark.parametrize("name", ["configuration.md", "finetune.md"])
def test_the_page_shows_the_settings_as_they_are(name: str) -> None:
    page = PAGE.with_name(name).read_text()
    assert page == in_page(page), "the page is stale: run `make docs`"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_a_setting_has_a_description_that_a_table_can_hold(setting: tuple[str, ...]) -> None:
    assert all(part and "|" not in part and "\n" not in part for part in setting)


def test_every_key_of_a_whole_configuration_is_listed() -> None:
    listed = {setting.key for setting in SETTINGS}
    config = load_config("demo").model_dump()
    for section, values in config.items():
        for name, value in values.items() if isinstance(values, dict) else ():
            key = f"{section}.{name}"
            inner = [f"{key}.{last}" for last in value] if isinstance(value, dict) else []
            assert section == "teachers" or key in listed or (inner and set(inner) <= listed)
    assert {"description", "teachers", "init", "out"} <= listed
    assert {"teachers.NAME.model", "data.train.N.path", "data.augment.kind"} <= listed


def test_kinds_are_words() -> None:
    kinds = {setting.key: setting.kind for setting in SETTINGS}
    assert kinds["optim.batch_size"] == "whole number or `auto`"
    assert kinds["optim.epochs"] == "number, `auto` or null"
    assert kinds["cache.dtype"] == "`bf16` or `int8`"
    assert kinds["optim.betas"] == "list of number"


@pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sbatch"])
def test_the_examples_are_shell_that_starts_this_package(name: str) -> None:
    script = PAGE.parents[1] / "examples" / name
    subprocess.run(["bash", "-n", script], check=True)
    assert "-m alumnus distill" in script.read_text()


def test_a_page_without_the_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="has no line"):
        in_page("# Configuration")

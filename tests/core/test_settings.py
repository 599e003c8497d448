"""Settings: from a file and the environment to a frozen config, each fault in one line, no secret in any."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from burnish.core.errors import BadSettings
from burnish.core.settings import make_config, read_settings, refuse_unknown_sections


@dataclass(frozen=True, kw_only=True)
class Kitchen:
    """A room's config."""

    cooks: int
    stove: str = "gas"
    heat: float | None = None
    keys: tuple[str, ...] = field(default=(), repr=False)
    sizes: tuple[int, ...] = ()


def write(folder: Path, text: str) -> Path:
    file = folder / "settings.toml"
    file.write_text(text)
    return file


def test_no_file_and_no_variable_is_nothing() -> None:
    assert read_settings(None, {}) == {}


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[kitchen]\ncooks = 2\nstove = "wood"\n')
    environment = {"BURNISH_KITCHEN__COOKS": "3", "BURNISH_CELLAR__WINE": "red", "BURNISH_API_KEY": "k", "HOME": "/"}
    sections = read_settings(file, environment)
    assert sections == {"kitchen": {"cooks": "3", "stove": "wood"}, "cellar": {"wine": "red"}}
    assert make_config(Kitchen, sections["kitchen"], section="kitchen") == Kitchen(cooks=3, stove="wood")


def test_a_file_that_is_not_there_or_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"does not exist\. Check the path"):
        read_settings(tmp_path / "missing.toml", {})
    with pytest.raises(BadSettings, match="cannot be read: Is a directory"):
        read_settings(tmp_path, {})


@pytest.mark.parametrize(
    ("text", "told"), [("cooks = = 2", "is not TOML"), ("cooks = 2", "'cooks' stands outside a section")]
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(BadSettings, match=told) as fault:
        read_settings(write(tmp_path, text), {})
    assert "\n" not in str(fault.value)


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadSettings, match="is not TOML"):
        read_settings(tmp_path / "settings.toml", {})


def test_an_unknown_section_names_the_nearest() -> None:
    refuse_unknown_sections({"kitchen": {}}, ["kitchen", "cellar"])
    with pytest.raises(BadSettings, match=r"section \[kitchn\]\. Did you mean 'kitchen'\?"):
        refuse_unknown_sections({"kitchn": {}}, ["kitchen", "cellar"])


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(BadSettings, match=r"unknown key 'cook' in settings section \[kitchen\]\. Did you mean 'cooks'"):
        make_config(Kitchen, {"cook": 1}, section="kitchen")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(BadSettings, match=r"section \[kitchen\] lacks 'cooks'"):
        make_config(Kitchen, {"stove": "gas"}, section="kitchen")


def test_a_wrong_type_names_setting_and_value() -> None:
    with pytest.raises(BadSettings, match=r"setting kitchen\.cooks = 'many' is wrong: Input should be a valid integer"):
        make_config(Kitchen, {"cooks": "many"}, section="kitchen")


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("one", ("one",)),
        ("one, two", ("one", "two")),
        ('["a,b", "c d"]', ("a,b", "c d")),
        ("[odd", ("[odd",)),
    ],
)
def test_a_string_holds_one_value_or_several(text: str, keys: tuple[str, ...]) -> None:
    assert make_config(Kitchen, {"cooks": 1, "keys": text}, section="kitchen").keys == keys


def test_several_values_are_converted_one_by_one() -> None:
    assert make_config(Kitchen, {"cooks": 1, "sizes": "4,5"}, section="kitchen").sizes == (4, 5)


@pytest.mark.parametrize("value", [7, ["ok", 12345], {"secret": "hunter2"}, '[1, "hunter2"]'])
def test_a_secret_is_never_printed(value: object) -> None:
    with pytest.raises(BadSettings, match=r"setting kitchen\.keys is wrong: ") as fault:
        make_config(Kitchen, {"cooks": 1, "keys": value}, section="kitchen")
    assert not any(secret in str(fault.value) for secret in ("7", "12345", "hunter2"))

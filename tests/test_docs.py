"""Pages that are written from the code are current."""

from scripts.write_docs import TARGET, describe


def test_the_command_page_is_what_the_commands_say() -> None:
    assert TARGET.read_text(encoding="utf-8") == describe(), "run make docs"
